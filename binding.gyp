{
  # The sources are listed in native/sources.txt for this file and for cmake/CMakeLists.txt alike.
  "targets": [
    {
      "target_name": "tritonode",
      "sources": ["<!@(cat native/sources.txt)"],
      "include_dirs": ["<!(node -p \"require('node-addon-api').include_dir\")"],
      "defines": ["NAPI_VERSION=9", "NODE_ADDON_API_CPP_EXCEPTIONS"],
      "cflags!": ["-fno-exceptions"],
      "cflags_cc!": ["-fno-exceptions", "-fno-rtti", "-std=gnu++17", "-std=gnu++20"],
      "cflags": ["-Wall", "-Wextra", "-Werror", "-fvisibility=hidden"],
      "cflags_cc": ["-std=c++20", "-fexceptions", "-frtti"],
      "ldflags": ["-Wl,-z,now", "-Wl,--exclude-libs,ALL"],
      "libraries": ["-ldl", "-lpthread"]
    }
  ]
}
