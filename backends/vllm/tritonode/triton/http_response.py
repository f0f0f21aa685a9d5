"""The output `http_response`: through the host's FIFO where it has opened one, else in responses of Triton."""

from __future__ import annotations

from typing import Any

import numpy as np

from .senders import Sender


async def send_http(sender: Sender, pb_utils: Any, parts: list[bytes], final: bool) -> None:
    """Send elements of `http_response`; waits while the client is behind."""
    channel = sender.channel
    if channel is not None:
        if not final:
            await channel.room()
        # Latin-1 maps every byte to one character, so that JSON can carry a body of any bytes.
        sender.put_entry(channel, [[part.decode("latin-1") for part in parts]], final=final)
        return
    tensor = pb_utils.Tensor("http_response", np.array(parts, dtype=object))
    await sender.send(pb_utils.InferenceResponse(output_tensors=[tensor]), final=final)
