{
  # The sources are listed in native/sources.txt for this file and for cmake/CMakeLists.txt alike.
  "targets": [
    {
      "target_name": "tritonode",
      "sources": ["<!@(cat native/sources.txt)"],
      "include_dirs": ["<!(node -p \"require('node-addon-api').include_dir\")"],
      # SWALLOW_UNTHROWABLE: a worker that is being terminated fails every call into JavaScript; without it node-addon-api
      # ends the process over that.
      # CPP_EXCEPTIONS_ALL: std::bad_alloc and its like become JavaScript errors instead of ending the process.
      "defines": [
        "NAPI_VERSION=9", "NODE_ADDON_API_CPP_EXCEPTIONS", "NODE_ADDON_API_CPP_EXCEPTIONS_ALL",
        "NODE_API_SWALLOW_UNTHROWABLE_EXCEPTIONS"
      ],
      "cflags!": ["-fno-exceptions"],
      "cflags_cc!": ["-fno-exceptions", "-fno-rtti", "-std=gnu++17", "-std=gnu++20"],
      "cflags": ["-Wall", "-Wextra", "-Werror", "-fvisibility=hidden"],
      "cflags_cc": ["-std=c++20", "-fexceptions", "-frtti"],
      # nodelete: Node unloads an addon with the last worker that used it, while threads of ours and Triton's callbacks
      # still run in it.
      "ldflags": ["-Wl,-z,nodelete", "-Wl,-z,now", "-Wl,--exclude-libs,ALL"],
      "libraries": ["-ldl", "-lpthread"]
    },
    {
      # Makes a waiting stub (native/warm_child/preload.cc): it is loaded into the stub, not into Node.
      "target_name": "tritonode_warm",
      "type": "shared_library",
      "product_prefix": "lib",
      "product_extension": "so",
      "sources": ["<!@(cat native/warm_child/sources.txt)"],
      "cflags_cc!": ["-std=gnu++17", "-std=gnu++20"],
      "cflags": ["-Wall", "-Wextra", "-Werror", "-fvisibility=hidden"],
      "cflags_cc": ["-std=c++20", "-fno-exceptions", "-fno-rtti", "-fno-threadsafe-statics"],
      "ldflags": ["-Wl,--as-needed", "-Wl,-z,now"]
    },
    {
      # The LoRA kernels for the CPU: a library that the vLLM backend's Python loads. Not a loadable_module: node-gyp names
      # those .node, and prebuildify would take it for the addon.
      "target_name": "tritonode_punica",
      "type": "shared_library",
      "product_prefix": "lib",
      "product_extension": "so",
      "sources": ["<!@(cat native/punica/sources.txt)"],
      "cflags!": ["-fno-exceptions", "-O2"],
      "cflags_cc!": ["-fno-exceptions", "-fno-rtti", "-std=gnu++17", "-std=gnu++20"],
      # No contraction: see native/punica/CMakeLists.txt.
      "cflags": ["-Wall", "-Wextra", "-Werror", "-fvisibility=hidden", "-O3", "-ffp-contract=off"],
      "cflags_cc": ["-std=c++20", "-fexceptions", "-frtti"],
      "ldflags": ["-Wl,-z,nodelete", "-Wl,-z,now", "-Wl,--exclude-libs,ALL"]
    }
  ]
}
