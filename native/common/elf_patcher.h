// Points functions that a loaded library imports at functions of ours: in that library's own tables alone, so that
// nothing else in the process sees a difference.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "status.h"

struct link_map;

namespace tritonode {

class ImportTable {
 public:
  // `library` is what dlopen returned; it must stay open. LIBRARY if its dynamic section can't be read.
  static Status Read(void* library, ImportTable* table);

  // How many entries of the library's tables lead to the imported function `name`.
  size_t Count(const std::string& name) const;
  // Whether the library's file holds `text`.
  bool Contains(const std::string& text) const;
  // Where the entry for `name` leads now; null if there is none.
  void* Target(const std::string& name) const;
  // Leads every entry for `name` to `function`. A page that was made read-only after relocation (RELRO) is read-only
  // again afterwards. SYSTEM if its protection can't be changed.
  Status Redirect(const std::string& name, void* function);

 private:
  std::map<std::string, std::vector<void**>> entries_;
  std::string path_;
};

}  // namespace tritonode
