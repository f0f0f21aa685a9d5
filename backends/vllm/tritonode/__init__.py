"""tritonode's vLLM backend for Triton's Python backend.

Nothing here imports torch or vLLM at module level except `vllm_api` and the modules that say so: Triton starts the
stub a second time for auto-completion, and importing vLLM there costs seconds.
"""
