#include "deliver.h"

#include <cstring>
#include <initializer_list>
#include <string>

#include "../triton/bytes_tensor.h"

namespace tritonode {
namespace {

Napi::Value Text(Napi::Env env, const char* bytes, size_t size) {
  // V8 puts U+FFFD in the place of what is not UTF-8.
  return Napi::String::New(env, bytes, size);
}

Napi::Value Copy(Napi::Env env, const uint8_t* bytes, size_t size) {
  // Copied, not external: Electron's V8 (pointer compression, sandbox) has no external array buffers.
  Napi::ArrayBuffer buffer = Napi::ArrayBuffer::New(env, size);
  if (size > 0) std::memcpy(buffer.Data(), bytes, size);
  return Napi::Uint8Array::New(env, size, buffer, 0);
}

Napi::Value BytesElements(Napi::Env env, const OutputTensor& tensor, bool raw) {
  Napi::Array elements = Napi::Array::New(env);
  uint32_t count = 0;
  ForEachElement(tensor.data.get(), tensor.byteSize, [&](const uint8_t* bytes, size_t size) {
    elements.Set(count++, raw ? Copy(env, bytes, size) : Text(env, reinterpret_cast<const char*>(bytes), size));
  });
  return elements;
}

Napi::Value Booleans(Napi::Env env, const OutputTensor& tensor) {
  Napi::Array elements = Napi::Array::New(env, tensor.byteSize);
  for (size_t i = 0; i < tensor.byteSize; ++i) {
    elements.Set(static_cast<uint32_t>(i), Napi::Boolean::New(env, tensor.data.get()[i] != 0));
  }
  return elements;
}

template <typename Array>
Napi::Value Numbers(Napi::Env env, const OutputTensor& tensor) {
  const size_t count = tensor.byteSize / sizeof(typename Array::ElementType);
  const size_t size = count * sizeof(typename Array::ElementType);
  Napi::ArrayBuffer buffer = Napi::ArrayBuffer::New(env, size);
  if (size > 0) std::memcpy(buffer.Data(), tensor.data.get(), size);
  return Array::New(env, count, buffer, 0);
}

template <typename Element>
struct Typed : Napi::TypedArrayOf<Element> {
  using ElementType = Element;
};

Napi::Value Data(Napi::Env env, const OutputTensor& tensor, bool raw) {
  switch (tensor.datatype) {
    case DataType::kBytes: return BytesElements(env, tensor, raw);
    case DataType::kBool: return Booleans(env, tensor);
    case DataType::kUint16:
    case DataType::kFp16:
    case DataType::kBf16: return Numbers<Typed<uint16_t>>(env, tensor);
    case DataType::kUint32: return Numbers<Typed<uint32_t>>(env, tensor);
    case DataType::kUint64: return Numbers<Typed<uint64_t>>(env, tensor);
    case DataType::kInt8: return Numbers<Typed<int8_t>>(env, tensor);
    case DataType::kInt16: return Numbers<Typed<int16_t>>(env, tensor);
    case DataType::kInt32: return Numbers<Typed<int32_t>>(env, tensor);
    case DataType::kInt64: return Numbers<Typed<int64_t>>(env, tensor);
    case DataType::kFp32: return Numbers<Typed<float>>(env, tensor);
    case DataType::kFp64: return Numbers<Typed<double>>(env, tensor);
    case DataType::kUint8:
    case DataType::kInvalid: break;
  }
  return Copy(env, tensor.data.get(), tensor.byteSize);
}

Napi::Value Outputs(Napi::Env env, const Response& response, bool raw) {
  constexpr auto kFields = static_cast<uint32_t>(OutputField::kCount);
  Napi::Array flat = Napi::Array::New(env, response.outputs.size() * kFields);
  uint32_t begin = 0;
  const auto put = [&](OutputField field, const Napi::Value& value) {
    flat.Set(begin + static_cast<uint32_t>(field), value);
  };
  for (const OutputTensor& tensor : response.outputs) {
    Napi::Array shape = Napi::Array::New(env, tensor.shape.size());
    for (size_t i = 0; i < tensor.shape.size(); ++i) {
      shape.Set(static_cast<uint32_t>(i), Napi::Number::New(env, static_cast<double>(tensor.shape[i])));
    }
    put(OutputField::k_name, Napi::String::New(env, tensor.name));
    put(OutputField::k_datatype, Napi::Number::New(env, static_cast<double>(tensor.datatype)));
    put(OutputField::k_shape, shape);
    put(OutputField::k_data, Data(env, tensor, raw));
    begin += kFields;
  }
  return flat;
}

Napi::Value Parameters(Napi::Env env, const Response& response) {
  if (response.parameters.empty()) return env.Undefined();
  Napi::Object object = Napi::Object::New(env);
  for (const auto& [name, value] : response.parameters) {
    Napi::Value converted = env.Undefined();
    if (const auto* text = std::get_if<std::string>(&value)) {
      converted = Text(env, text->data(), text->size());
    } else if (const auto* integer = std::get_if<int64_t>(&value)) {
      converted = Napi::Number::New(env, static_cast<double>(*integer));
    } else if (const auto* flag = std::get_if<bool>(&value)) {
      converted = Napi::Boolean::New(env, *flag);
    } else {
      converted = Napi::Number::New(env, std::get<double>(value));
    }
    object.Set(name, converted);
  }
  return object;
}

Napi::Array Row(Napi::Env env, std::initializer_list<const char*> names) {
  Napi::Array row = Napi::Array::New(env);
  for (const char* name : names) row.Set(row.Length(), Napi::String::New(env, name));
  return row;
}

}  // namespace

#define TRITONODE_NAME(name) #name,
#define TRITONODE_ROW(kind, FIELDS) rows.Set(rows.Length(), Row(env, {#kind, FIELDS(TRITONODE_NAME)}));
Napi::Object EventTable(Napi::Env env) {
  Napi::Array rows = Napi::Array::New(env);
  TRITONODE_EVENTS(TRITONODE_ROW)
  Napi::Object table = Napi::Object::New(env);
  table.Set("events", rows);
  table.Set("output", Row(env, {TRITONODE_OUTPUT_FIELDS(TRITONODE_NAME)}));
  return table;
}
#undef TRITONODE_ROW
#undef TRITONODE_NAME

void Delivery::Add(Response& response, bool raw) {
  using Field = ResponseField;
  Write<Field>(EventKind::k_response, [&] {
    Put(Field::k_call, Napi::Number::New(env_, static_cast<double>(response.call)));
    Put(Field::k_last, Napi::Boolean::New(env_, response.final));
    Put(Field::k_empty, Napi::Boolean::New(env_, response.empty));
    if (!response.status.ok()) {
      const std::string& message = response.status.message();
      Put(Field::k_code, Napi::String::New(env_, response.status.code()));
      Put(Field::k_message, Text(env_, message.data(), message.size()));
    }
    Put(Field::k_model, Napi::String::New(env_, response.model));
    Put(Field::k_version, Napi::Number::New(env_, static_cast<double>(response.version)));
    Put(Field::k_outputs, Outputs(env_, response, raw));
    Put(Field::k_parameters, Parameters(env_, response));
  });
}

void Delivery::Add(const LogLine& line) {
  Write<LogField>(EventKind::k_log, [&] { Put(LogField::k_text, Text(env_, line.text.data(), line.text.size())); });
}

void Delivery::Add(const ChildChange& change) {
  using Field = ChildField;
  Write<Field>(EventKind::k_child, [&] {
    Put(Field::k_pid, Napi::Number::New(env_, change.pid));
    Put(Field::k_running, Napi::Boolean::New(env_, change.running));
    Put(Field::k_arguments, Text(env_, change.arguments.data(), change.arguments.size()));
    Put(Field::k_asked, Napi::Boolean::New(env_, change.asked));
  });
}

}  // namespace tritonode
