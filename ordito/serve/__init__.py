"""HTTP: models behind the interfaces of OpenAI, Anthropic and Ollama."""
