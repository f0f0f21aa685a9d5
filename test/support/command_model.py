"""A model that does what each request's `command` says, so that one model makes every kind of stream.

`count` responses `sleep` seconds apart, with the request's `text`, or what `parameters`, `environment` or `machine` ask
for; a line to `print`; an `error` at the end; death by the signal `die`.
"""

import json
import os
import platform
import threading
import time

import numpy as np
import triton_python_backend_utils as pb_utils

FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL


class TritonPythonModel:
    @staticmethod
    def auto_complete_config(config):
        config.add_input({"name": "text", "data_type": "TYPE_STRING", "dims": [-1]})
        config.add_input({"name": "command", "data_type": "TYPE_STRING", "dims": [1]})
        config.add_output({"name": "out", "data_type": "TYPE_STRING", "dims": [-1]})
        config.set_model_transaction_policy({"decoupled": True})
        config.set_max_batch_size(0)
        return config

    def initialize(self, args):
        print("the command model is up", flush=True)

    def execute(self, requests):
        for request in requests:
            text = pb_utils.get_input_tensor_by_name(request, "text").as_numpy()
            command = json.loads(pb_utils.get_input_tensor_by_name(request, "command").as_numpy()[0])
            parameters = json.loads(request.parameters())
            sender = request.get_response_sender()
            threading.Thread(target=self.run, args=(sender, text, command, parameters), daemon=True).start()

    def run(self, sender, text, command, parameters):
        if "die" in command:
            os.kill(os.getpid(), command["die"])
        if "environment" in command:
            text = np.array([os.environ.get(name, "").encode() for name in command["environment"]], dtype=object)
        if "print" in command:
            print(command["print"], flush=True)
        if "machine" in command:
            text = np.append(np.array([platform.machine().encode()], dtype=object), text)
        if "parameters" in command:
            text = np.array([json.dumps(parameters).encode()], dtype=object)
        for i in range(command.get("count", 1)):
            if sender.is_cancelled():
                print("cancelled after", i, flush=True)
                break
            sender.send(pb_utils.InferenceResponse([pb_utils.Tensor("out", text)]))
            time.sleep(command.get("sleep", 0))
        if "error" in command:
            error = pb_utils.TritonError(command["error"])
            sender.send(pb_utils.InferenceResponse(error=error), flags=FINAL)
        else:
            sender.send(flags=FINAL)
