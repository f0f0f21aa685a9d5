#include "deliver.h"

#include <cstring>
#include <string>

#include "../core/bytes_tensor.h"

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
  Napi::Array flat = Napi::Array::New(env, response.outputs.size() * 4);
  uint32_t at = 0;
  for (const OutputTensor& tensor : response.outputs) {
    Napi::Array shape = Napi::Array::New(env, tensor.shape.size());
    for (size_t i = 0; i < tensor.shape.size(); ++i) {
      shape.Set(static_cast<uint32_t>(i), Napi::Number::New(env, static_cast<double>(tensor.shape[i])));
    }
    flat.Set(at++, Napi::String::New(env, tensor.name));
    flat.Set(at++, Napi::Number::New(env, static_cast<double>(tensor.datatype)));
    flat.Set(at++, shape);
    flat.Set(at++, Data(env, tensor, raw));
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

}  // namespace

void Delivery::Add(Response& response, bool raw) {
  Whole([&] {
    Push(Napi::Number::New(env_, 0));
    Push(Napi::Number::New(env_, static_cast<double>(response.call)));
    Push(Napi::Boolean::New(env_, response.final));
    Push(Napi::Boolean::New(env_, response.empty));
    if (response.status.ok()) {
      Push(env_.Undefined());
      Push(env_.Undefined());
    } else {
      Push(Napi::String::New(env_, response.status.code()));
      Push(Text(env_, response.status.message().data(), response.status.message().size()));
    }
    Push(Napi::String::New(env_, response.model));
    Push(Napi::Number::New(env_, static_cast<double>(response.version)));
    Push(Outputs(env_, response, raw));
    Push(Parameters(env_, response));
  });
}

void Delivery::Add(const LogLine& line) {
  Whole([&] {
    Push(Napi::Number::New(env_, 1));
    Push(Text(env_, line.text.data(), line.text.size()));
  });
}

void Delivery::Add(const ChildChange& change) {
  Whole([&] {
    Push(Napi::Number::New(env_, 2));
    Push(Napi::Number::New(env_, change.pid));
    Push(Napi::Boolean::New(env_, change.running));
    Push(Text(env_, change.arguments.data(), change.arguments.size()));
  });
}

}  // namespace tritonode
