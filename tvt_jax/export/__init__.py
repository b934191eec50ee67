"""Programs that run without this package: SavedModel and StableHLO."""
