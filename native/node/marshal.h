// JavaScript objects as the structures of triton/ and process/. src/server has checked and normalised them; whatever is
// still wrong throws a TypeError.
#pragma once

#include <napi.h>

#include "../triton/call.h"
#include "../process/host.h"

namespace tritonode {

std::string GetString(const Napi::Object& from, const char* key);
std::string GetOptionalString(const Napi::Object& from, const char* key);

StartOptions ToStartOptions(const Napi::Object& from);
RequestSpec ToRequestSpec(const Napi::Object& from);
// [[path, Uint8Array], ...]
std::vector<ModelFile> ToModelFiles(const Napi::Value& from);

}  // namespace tritonode
