"""The user's batches: checked, stored as rows on disk, split in two."""
