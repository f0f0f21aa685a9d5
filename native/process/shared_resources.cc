#include "shared_resources.h"

#include <algorithm>

namespace tritonode {

SharedResources& SharedResources::Get() {
  // Leaked on purpose: threads of ours outlive static destructors.
  static SharedResources& resources = *new SharedResources;
  return resources;
}

SharedResources::Resource* SharedResources::Wait(std::unique_lock<std::mutex>& lock, const std::string& name,
                                                 const EventQueue& user) {
  for (;;) {
    const auto found = resources_.find(name);
    if (found == resources_.end()) return nullptr;
    if (found->second.busy == nullptr || user.closed()) return &found->second;
    changed_.wait(lock);
  }
}

Status SharedResources::Acquire(const std::shared_ptr<EventQueue>& user, const std::string& name,
                                const std::string& key, AcquiredResource* acquired) {
  std::unique_lock<std::mutex> lock(mutex_);
  Resource* resource = Wait(lock, name, *user);
  if (user->closed()) return {"STATE", "the environment is gone"};
  if (resource == nullptr) {
    resources_[name] = Resource{key, {}, {user}, user};
    acquired->mustSetUp = true;
    return {};
  }
  if (resource->key != key) return {"IN_USE", resource->description};
  resource->users.push_back(user);
  acquired->description = resource->description;
  return {};
}

bool SharedResources::Retake(const std::shared_ptr<EventQueue>& user, const std::string& name) {
  std::unique_lock<std::mutex> lock(mutex_);
  Resource* resource = Wait(lock, name, *user);
  if (resource == nullptr || user->closed()) return false;
  if (std::find(resource->users.begin(), resource->users.end(), user) == resource->users.end()) return false;
  resource->busy = user;
  return true;
}

void SharedResources::Settle(const std::shared_ptr<EventQueue>& user, const std::string& name, bool ready,
                             const std::string& description) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto found = resources_.find(name);
  if (found == resources_.end() || found->second.busy != user) return;
  found->second.busy = nullptr;
  if (ready) {
    found->second.description = description;
  } else if (found->second.users.size() <= 1) {
    resources_.erase(found);
  }
  changed_.notify_all();
}

bool SharedResources::Release(const std::shared_ptr<EventQueue>& user, const std::string& name) {
  std::unique_lock<std::mutex> lock(mutex_);
  Resource* resource = Wait(lock, name, *user);
  if (resource == nullptr) return false;
  const auto found = std::find(resource->users.begin(), resource->users.end(), user);
  if (found == resource->users.end()) return false;
  resource->users.erase(found);
  if (!resource->users.empty()) return false;
  resource->busy = user;
  return true;
}

void SharedResources::ReleaseAll(const std::shared_ptr<EventQueue>& user,
                                 const std::function<void(const std::string& name)>& takeDown) {
  std::vector<std::string> unused;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (auto& [name, resource] : resources_) {
      const bool busy = resource.busy == user;
      const size_t left = std::erase(resource.users, user);
      if (!busy && left == 0) continue;
      if (resource.users.empty() && (busy || resource.busy == nullptr)) {
        // Still ours: nobody may set it up while it is taken down.
        resource.busy = user;
        unused.push_back(name);
      } else if (busy) {
        // Another user finds out in which state it was left.
        resource.busy = nullptr;
      }
    }
    changed_.notify_all();
  }
  for (const std::string& name : unused) {
    takeDown(name);
    const std::lock_guard<std::mutex> lock(mutex_);
    resources_.erase(name);
    changed_.notify_all();
  }
}

}  // namespace tritonode
