"""The manifest of a preparation: what is stored, what is not, and why."""

import hashlib
from collections import Counter
from typing import Any

from tvt_jax.data.preparation.shard_writer import ShardTask, finished_report
from tvt_jax.data.sources import SHARDS_FORMAT
from tvt_jax.errors import UserError


def make_manifest(
    settings: dict[str, Any],
    fingerprint: str,
    images: int,
    tasks: list[ShardTask],
    failed: list[dict[str, str]],
    duplicates: list[dict[str, str]],
) -> dict[str, Any]:
    """Combines the reports of all shards.

    Args:
      settings: of the preparation, with its `licence`.
      fingerprint: of the preparation.
      images: how many were found.
      tasks: all shards.
      failed, duplicates: images that no shard has.

    Raises:
      UserError: a shard is not finished.
    """
    shards, stored, filtered, converted = [], 0, [], Counter()
    digest, sides, failed = hashlib.sha256(), [], list(failed)
    for task in tasks:
        report = finished_report(task)
        if report is None:
            raise UserError(
                f"the shard {task.file} was not finished; run the same command again to go on."
            )
        stored += len(report["images"])
        failed += report["failed"]
        filtered += report["filtered"]
        converted.update(entry["reason"] for entry in report["converted"])
        for record in report["records"]:
            digest.update(record["sha256"].encode())
            sides.append(min(record["width"], record["height"]))
        shards.append(
            {
                "file": f"shards/{task.file.name}",
                "records": report["record_count"],
                "bytes": report["bytes"],
                "sha256": report["sha256"],
            }
        )
    return {
        "format": SHARDS_FORMAT,
        "fingerprint": fingerprint,
        "licence": settings["licence"],
        "settings": settings,
        "images": {
            "found": images,
            "stored": stored,
            "failed": len(failed),
            "filtered": len(filtered),
            "duplicates": len(duplicates),
        },
        "record_count": sum(shard["records"] for shard in shards),
        "bytes": sum(shard["bytes"] for shard in shards),
        "records_sha256": digest.hexdigest(),
        "shorter_side": {"min": min(sides, default=0), "max": max(sides, default=0)},
        "converted": dict(sorted(converted.items())),
        "shards": shards,
        "failed": failed,
        "filtered": filtered,
        "duplicates": duplicates,
    }


def check_enough(manifest: dict[str, Any], max_left_out: float) -> None:
    """Raises UserError, with the commonest reasons, where too few images are left."""
    entries = manifest["failed"] + manifest["filtered"]
    found = manifest["images"]["found"]
    if manifest["record_count"] and len(entries) <= max_left_out * found:
        return
    reasons = Counter(entry["reason"] for entry in entries).most_common(3)
    what = "; ".join(f"{count} x {reason}" for reason, count in reasons)
    if not manifest["record_count"]:
        raise UserError(f"none of the {found} images is left: {what}.")
    raise UserError(
        f"{len(entries)} of the {found} images are left out, more than `max_left_out` "
        f"{max_left_out} allows: {what}."
    )
