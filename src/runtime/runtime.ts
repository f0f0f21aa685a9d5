/** What the engine computes on: vLLM's CPU build, or its CUDA build. */
export type Device = "cpu" | "cuda";

/**
 * An installed runtime: the Python, the Triton and the vLLM that a model is served with. Made by `setup`, found by
 * `findRuntime`.
 */
export interface Runtime {
  /** The runtime's own folder, e.g. `~/.local/share/tritonode/0.1.0-cpu`. */
  readonly directory: string;
  /** What its vLLM computes on. */
  readonly device: Device;
  /** `<directory>/venv/bin/python3`. */
  readonly python: string;
  /** Major and minor version, e.g. `"3.11"`. The stub has to match it. */
  readonly pythonVersion: string;
  /** Folder of `libpython3.X.so.1.0`, for the stub's LD_LIBRARY_PATH. */
  readonly libpythonDirectory: string;
  /** The Triton that serves its models. */
  readonly triton: TritonFiles;
  /** The installed vLLM's version, e.g. `"0.32.0"`. */
  readonly vllmVersion: string;
  /** The environment whose packages it uses, if `setup` was told to use installed packages. */
  readonly installed?: { readonly python: string; readonly sitePackages: readonly string[] };
  /** Distribution name (normalised: lower case, `-`) → installed version, from the manifest. */
  readonly packages: Readonly<Record<string, string>>;
}

/** The paths of a Triton's parts, all absolute. */
export interface TritonFiles {
  /** Triton's version, e.g. `"2.51.0"`. */
  readonly version: string;
  /** `libtritonserver*.so`. */
  readonly library: string;
  /** The wheel's folder of bundled libraries, to be opened before `library`; undefined for an installed Triton. */
  readonly dependencyDirectory: string | undefined;
  /** Folder that holds `libtriton_python.so` and `triton_python_backend_utils.py`. */
  readonly pythonBackend: string;
  /** The `triton_python_backend_stub` built for the runtime's Python version. */
  readonly stub: string;
  /** The stock `tritonserver` program, if there is one. */
  readonly server: string | undefined;
}
