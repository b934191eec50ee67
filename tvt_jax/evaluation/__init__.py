"""Quality of restored images: data sets, protocols, methods, legibility, reports."""
