// The functions of the addon for what environments share; see native/process/shared_resources.h.
#pragma once

#include <napi.h>

#include <memory>

#include "../common/event_queue.h"

namespace tritonode {

void AddSharedExports(Napi::Env env, Napi::Object exports);

// For an environment that is gone: unloads models and unregisters repositories that only it used. Blocks.
void ReleaseShared(const std::shared_ptr<EventQueue>& user);

}  // namespace tritonode
