"""A Triton request of the vLLM backend's contract, read into plain values."""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass, field
from typing import Any

from tritonode.errors import InvalidRequestError

CHANNEL = "tritonode_channel"
"""Request parameter: the channel that the deltas of a stream go to (triton/deltas.py)."""
HOST_REQUEST = "tritonode_request"
"""Request parameter: what a tritonode host sends besides the prompt, as JSON: `stream`, `sampling_parameters`,
`returns` (names of RETURN_SWITCHES), `prompt_token_ids`. It replaces tensors of the contract, since every tensor costs
time."""
OPEN_CHANNEL = "tritonode_open_channel"
"""Request parameter: this request is the channel of that name."""
CANCEL_TOKEN = "tritonode_cancel_token"
"""Request parameter: the name by which a tritonode host cancels the request and recognises its deltas."""
_HOST_PARAMETERS = (CANCEL_TOKEN, CHANNEL, OPEN_CHANNEL, HOST_REQUEST)
RETURN_SWITCHES = (
    "return_finish_reason",
    "return_cumulative_logprob",
    "return_logprobs",
    "return_num_input_tokens",
    "return_num_output_tokens",
)


@dataclass
class RawRequest:
    """The tensors of a request as Python values. Only their encoding has been checked."""

    request_id: str
    text: str
    parameters: str
    stream: bool
    exclude_input: bool | None
    images: list[str] = field(default_factory=list)
    returns: frozenset[str] = frozenset()
    # The prompt as token ids; `text` is empty then.
    token_ids: list[int] | None = None
    embedding: str | None = None
    cancel_token: str | None = None
    # See deltas.py.
    channel: str | None = None
    opens_channel: str | None = None
    control: str | None = None
    http: list[bytes] | None = None


def read_request(request: Any, pb_utils: Any) -> RawRequest:
    """Read the input tensors; raises InvalidRequestError for one that cannot be read."""

    def tensor(name: str) -> Any:
        found = pb_utils.get_input_tensor_by_name(request, name)
        return None if found is None else found.as_numpy().reshape(-1)

    def text(name: str) -> str | None:
        values = tensor(name)
        if values is None or len(values) == 0:
            return None
        return _decode(values[0], name)

    def boolean(name: str) -> bool | None:
        values = tensor(name)
        return None if values is None or len(values) == 0 else bool(values[0])

    def images() -> list[str]:
        values = tensor("image")
        return [] if values is None else [_decode(image, "image") for image in values]

    own_parameters, host = _take_host_parameters(request.parameters())
    if HOST_REQUEST in host:
        return _read_host_request(request.request_id(), text("text_input") or "", images(), host)
    http = tensor("http_request")
    parameters = text("sampling_parameters")
    return RawRequest(
        request_id=request.request_id(),
        text=text("text_input") or "",
        parameters=own_parameters if parameters is None else parameters,
        stream=boolean("stream") or False,
        exclude_input=boolean("exclude_input_in_output"),
        images=images(),
        returns=frozenset(name for name in RETURN_SWITCHES if boolean(name)),
        embedding=text("embedding_request"),
        cancel_token=host.get(CANCEL_TOKEN),
        channel=host.get(CHANNEL),
        opens_channel=host.get(OPEN_CHANNEL),
        control=text("control_request"),
        http=None if http is None else [bytes(part) for part in http],
    )


def _read_host_request(request_id: str, text: str, images: list[str], host: dict[str, str]) -> RawRequest:
    asked = json.loads(host[HOST_REQUEST])
    return RawRequest(
        request_id=request_id,
        text=text,
        parameters=asked["sampling_parameters"],
        stream=asked["stream"],
        exclude_input=True,
        images=images,
        returns=frozenset(asked["returns"]),
        token_ids=asked.get("prompt_token_ids"),
        cancel_token=host.get(CANCEL_TOKEN),
        channel=host.get(CHANNEL),
    )


def _take_host_parameters(parameters: str) -> tuple[str, dict[str, str]]:
    """Separate the request's own parameters from those that a tritonode host adds."""
    if "tritonode_" not in parameters:
        return parameters, {}
    values = json.loads(parameters)
    host = {name: str(values.pop(name)) for name in _HOST_PARAMETERS if name in values}
    return json.dumps(values), host


def _decode(value: Any, name: str) -> str:
    if isinstance(value, str):
        return value
    try:
        return bytes(value).decode("utf-8")
    except UnicodeDecodeError as failure:
        raise InvalidRequestError(f"the input '{name}' is not valid UTF-8: {failure}") from failure


def prepends_input(raw: RawRequest) -> bool:
    """Whether the output starts with the prompt.

    Without streaming it is, unless `exclude_input_in_output` is true. Streaming with an explicit false is an error.
    """
    if raw.stream:
        if raw.exclude_input is False:
            raise InvalidRequestError("When streaming, `exclude_input_in_output` = False is not allowed.")
        return False
    return not raw.exclude_input


def decode_images(images: list[str]) -> list[Any]:
    """Base64 images as RGB PIL images; raises InvalidRequestError that says which one."""
    from io import BytesIO

    from PIL import Image, UnidentifiedImageError

    decoded = []
    for position, image in enumerate(images):
        try:
            decoded.append(Image.open(BytesIO(base64.b64decode(image, validate=True))).convert("RGB"))
        except (binascii.Error, UnidentifiedImageError, OSError, ValueError) as failure:
            raise InvalidRequestError(f"image {position} cannot be decoded: {failure}") from failure
    return decoded
