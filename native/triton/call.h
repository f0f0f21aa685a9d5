// One inference request and its responses, from submission until Triton has let go of it.
//
// Life cycle (measured on 24.10): for a decoupled model the release callback comes before the first response, so the
// request may be deleted only after the release callback AND the FINAL response; deleted earlier it could no longer be
// cancelled, never deleted it would pin the model.
//
// Triton gets a number as its userp, never a pointer: a callback that comes late, twice or after the end finds nothing
// under that number and is dropped, whatever Triton or a backend does.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "../common/event_queue.h"
#include "../common/response.h"
#include "server.h"
#include "../common/status.h"

namespace tritonode {

struct InputTensor {
  std::string name;
  DataType datatype = DataType::kInvalid;
  std::vector<int64_t> shape;
  // Row-major elements; for BYTES each one is a 4-byte little-endian length and its bytes.
  std::string data;
};

struct RequestSpec {
  std::string model;
  // -1: the model's own version policy decides.
  int64_t version = -1;
  std::string id;
  uint64_t priority = 0;
  uint32_t flags = 0;
  uint64_t correlationId = 0;
  std::string correlationIdText;
  std::vector<InputTensor> inputs;
  std::vector<std::string> requestedOutputs;
  std::vector<std::pair<std::string, ParameterValue>> parameters;
};

// Hands the request to Triton; responses go to `queue` under `*call`, which is unique in the process. On an error
// nothing was submitted and no response comes. Does not block.
Status Submit(const std::shared_ptr<Server>& server, std::shared_ptr<EventQueue> queue, RequestSpec spec,
              uint64_t* call);

// Asks Triton to cancel; responses go on until the FINAL one. Nothing happens for a call that has ended. Any thread.
void Cancel(uint64_t call);

// Cancels and stops delivering. The call is freed when Triton lets go of it, or at once if Triton has released the
// request already: what still comes is then dropped. For a caller that is gone, or a stub that is dead.
void Abandon(uint64_t call);
void AbandonAll(const EventQueue* queue);

// Calls that Triton has not let go of, of all environments.
size_t LiveCalls();
// Cancels everything that is alive; for a server about to stop.
void CancelAll();
// Waits until no call is left; false when the time is over.
bool WaitForCalls(uint32_t milliseconds);

}  // namespace tritonode
