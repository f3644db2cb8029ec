"""Text and token ids, conversations and prompts, ids and streamed text."""
