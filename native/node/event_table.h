// What the events that go to JavaScript look like: the one table of it. Delivery writes by it, and JavaScript gets it
// as the addon's `eventTable` and finds each field by its name (src/native/events.ts).
//
// A batch is one flat array: for each event the number of its kind and then its fields. Slots of an array are several
// times cheaper to make through Node-API than properties of an object, and there is an event for every response.
#pragma once

#include <napi.h>

#include <cstdint>

namespace tritonode {

// `code` is undefined unless the request failed; `empty`: a response without content, which ends a decoupled stream.
#define TRITONODE_RESPONSE_FIELDS(FIELD) \
  FIELD(call) FIELD(last) FIELD(empty) FIELD(code) FIELD(message) FIELD(model) FIELD(version) FIELD(outputs) \
      FIELD(parameters)
// A line of the log.
#define TRITONODE_LOG_FIELDS(FIELD) FIELD(text)
// A child process started or ended; `asked`: as far as is known, Triton has ended it.
#define TRITONODE_CHILD_FIELDS(FIELD) FIELD(pid) FIELD(running) FIELD(arguments) FIELD(asked)
// `outputs` is flat again: these for each tensor. `datatype` is the C API's number.
#define TRITONODE_OUTPUT_FIELDS(FIELD) FIELD(name) FIELD(datatype) FIELD(shape) FIELD(data)

#define TRITONODE_EVENTS(EVENT)              \
  EVENT(response, TRITONODE_RESPONSE_FIELDS) \
  EVENT(log, TRITONODE_LOG_FIELDS)           \
  EVENT(child, TRITONODE_CHILD_FIELDS)

#define TRITONODE_ENUMERATOR(name, ...) k_##name,
enum class EventKind : uint32_t { TRITONODE_EVENTS(TRITONODE_ENUMERATOR) };
enum class ResponseField : uint32_t { TRITONODE_RESPONSE_FIELDS(TRITONODE_ENUMERATOR) kCount };
enum class LogField : uint32_t { TRITONODE_LOG_FIELDS(TRITONODE_ENUMERATOR) kCount };
enum class ChildField : uint32_t { TRITONODE_CHILD_FIELDS(TRITONODE_ENUMERATOR) kCount };
enum class OutputField : uint32_t { TRITONODE_OUTPUT_FIELDS(TRITONODE_ENUMERATOR) kCount };
#undef TRITONODE_ENUMERATOR

// { events: [[kind, field, ...], ...], output: [field, ...] }, in the order of the numbers above.
Napi::Object EventTable(Napi::Env env);

}  // namespace tritonode
