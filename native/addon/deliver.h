// Events as JavaScript values. One flat array holds everything of a wake-up, because a few property-less slots are
// several times cheaper to make than an object per token; src/native/binding.ts reads it with the same constants.
//
//   0, call, final, empty, errorCode | undefined, errorMessage | undefined, model, version, outputs, parameters
//   1, text                                   a line of the log
//   2, pid, running, arguments                a child started or ended
//
// `outputs` is again flat: name, datatype (the API's number), shape, data.
#pragma once

#include <napi.h>

#include "../core/event_queue.h"
#include "../core/response.h"

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
  template <typename Body>
  void Whole(const Body& body) {
    const uint32_t begin = size_;
    try {
      // Thousands of tokens may wait after a blocked event loop: their handles must not pile up in one scope.
      const Napi::HandleScope scope(env_);
      body();
    } catch (...) {
      size_ = begin;
      array_.Set("length", Napi::Number::New(env_, begin));
      throw;
    }
  }
  void Push(napi_value value) { array_.Set(size_++, value); }

  Napi::Env env_;
  Napi::Array array_;
  uint32_t size_ = 0;
};

}  // namespace tritonode
