// One inference request and its responses, from submission until Triton needs neither any more.
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
#include "request.h"
#include "server.h"
#include "../common/status.h"

namespace tritonode {

// Hands the request to Triton; responses go to `queue` under `*call`, which is unique in the process. On an error
// nothing was submitted and no response comes. Does not block.
Status Submit(const std::shared_ptr<Server>& server, std::shared_ptr<EventQueue> queue, RequestSpec spec,
              uint64_t* call);

// Asks Triton to cancel; responses go on until the FINAL one. Nothing happens for a call that has ended. Any thread.
void Cancel(uint64_t call);

// Cancels and stops delivering. The call is freed when Triton has finished it, or at once if Triton has released the
// request already: later responses are dropped. For a caller that has ended.
void Abandon(uint64_t call);
void AbandonAll(const EventQueue* queue);
// The same for a Python child that is dead; what Triton's Python backend holds for the call is freed too.
void AbandonDead(uint64_t call);
// All calls of the model whose callers are gone.
void AbandonDeadOrphans(const std::string& model);

// The number of calls that Triton has not finished, of all environments.
size_t LiveCalls();
// Cancels all calls; for a server about to stop.
void CancelAll();
// Waits until no call is left; false when the time is over.
bool WaitForCalls(uint32_t milliseconds);

}  // namespace tritonode
