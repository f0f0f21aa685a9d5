"""Every name of vLLM's that this backend uses, one module per concern: a new vLLM version is read here."""
