"""The inputs and outputs of the vLLM backend's contract, and this backend's own."""

from __future__ import annotations

from typing import Any


def _input(name: str, data_type: str, dims: list[int] | None = None, *, optional: bool = True) -> dict[str, Any]:
    return {"name": name, "data_type": data_type, "dims": dims or [1], "optional": optional}


INPUTS: list[dict[str, Any]] = [
    {"name": "text_input", "data_type": "TYPE_STRING", "dims": [1]},
    _input("image", "TYPE_STRING", [-1]),
    _input("stream", "TYPE_BOOL"),
    _input("sampling_parameters", "TYPE_STRING"),
    _input("exclude_input_in_output", "TYPE_BOOL"),
    _input("return_finish_reason", "TYPE_BOOL"),
    _input("return_cumulative_logprob", "TYPE_BOOL"),
    _input("return_logprobs", "TYPE_BOOL"),
    _input("return_num_input_tokens", "TYPE_BOOL"),
    _input("return_num_output_tokens", "TYPE_BOOL"),
    _input("embedding_request", "TYPE_STRING"),
    # Not in upstream's contract: see triton/control.py.
    _input("control_request", "TYPE_STRING"),
    # Not in upstream's contract: see openai/http.py.
    _input("http_request", "TYPE_STRING", [-1]),
]

OUTPUTS: list[dict[str, Any]] = [
    {"name": "text_output", "data_type": "TYPE_STRING", "dims": [-1]},
    {"name": "finish_reason", "data_type": "TYPE_STRING", "dims": [-1]},
    {"name": "cumulative_logprob", "data_type": "TYPE_FP32", "dims": [-1]},
    {"name": "logprobs", "data_type": "TYPE_STRING", "dims": [-1]},
    {"name": "num_input_tokens", "data_type": "TYPE_UINT32", "dims": [1]},
    {"name": "num_output_tokens", "data_type": "TYPE_UINT32", "dims": [-1]},
    {"name": "http_response", "data_type": "TYPE_STRING", "dims": [-1]},
]


def complete(config: Any) -> Any:
    """Complete a model configuration (Triton's auto-completion). What it sets is kept."""
    present = config.as_dict()
    inputs = {entry["name"] for entry in present["input"]}
    outputs = {entry["name"] for entry in present["output"]}
    for entry in INPUTS:
        if entry["name"] not in inputs:
            config.add_input(entry)
    for entry in OUTPUTS:
        if entry["name"] not in outputs:
            config.add_output(entry)
    # vLLM forms batches itself, and a request can get many responses.
    config.set_model_transaction_policy({"decoupled": True})
    config.set_max_batch_size(0)
    return config


def instance_count(config: dict[str, Any]) -> int:
    """How many processes serve a model of this configuration: one for each instance."""
    groups = config.get("instance_group", [])
    return sum(int(group.get("count", 1)) * max(1, len(group.get("gpus", []))) for group in groups) or 1
