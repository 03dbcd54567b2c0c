"""Uses of finished artifacts: label or embed images, show clusters, compare runs, export."""
