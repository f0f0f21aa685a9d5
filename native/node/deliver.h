// Events as JavaScript values; event_table.h says what they look like.
#pragma once

#include <napi.h>

#include "../common/event_queue.h"
#include "../common/response.h"
#include "event_table.h"

namespace tritonode {

class Delivery {
 public:
  explicit Delivery(Napi::Env env) : env_(env), array_(Napi::Array::New(env)) {}

  // If one of them throws, nothing of its event is in the array.
  void Add(Response& response, bool raw);
  void Add(const LogLine& line);
  void Add(const ChildChange& change);

  bool empty() const { return size_ == 0; }
  Napi::Array array() const { return array_; }

 private:
  // Writes one event: its kind, and what `fill` puts into its fields by Put.
  template <typename Field, typename Fill>
  void Write(EventKind kind, const Fill& fill) {
    const uint32_t size = 1 + static_cast<uint32_t>(Field::kCount);
    try {
      // Thousands of tokens may wait after a blocked event loop: their handles must not pile up in one scope.
      const Napi::HandleScope scope(env_);
      array_.Set(size_, Napi::Number::New(env_, static_cast<uint32_t>(kind)));
      // Every field has its slot, those that stay undefined as well.
      array_.Set(size_ + size - 1, env_.Undefined());
      fill();
    } catch (...) {
      array_.Set("length", Napi::Number::New(env_, size_));
      throw;
    }
    size_ += size;
  }
  template <typename Field>
  void Put(Field field, napi_value value) {
    array_.Set(size_ + 1 + static_cast<uint32_t>(field), value);
  }

  Napi::Env env_;
  Napi::Array array_;
  uint32_t size_ = 0;
};

}  // namespace tritonode
