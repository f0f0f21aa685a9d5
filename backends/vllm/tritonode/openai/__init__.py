"""vLLM's own OpenAI application, called without a server."""
