"""tritonode's vLLM backend for Triton's Python backend.

What `auto_complete_config` needs imports neither torch nor vLLM: Triton starts the stub a second time for it, and
importing vLLM there would cost seconds. The packages form layers, checked by import-linter (pyproject.toml):

service      puts the parts together
triton       talks to Triton and to the host      openai   vLLM's OpenAI application
contract     requests and responses               lora     adapters
engine       vLLM's engine in this process
ranks        an engine of several processes
cpu          the CPU's kernels, threads and heap
vllm         every name of vLLM's; nothing else imports vLLM
"""
