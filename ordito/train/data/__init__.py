"""From files to rows: records, their formats, examples in shards on disk, and their order in training."""
