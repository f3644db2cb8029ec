"""From files to rows: records, their formats, examples in shards on disk, and the order in which they are learned."""
