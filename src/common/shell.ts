/** A word of a shell script that stands for exactly `value`. */
export function quote(value: string): string {
  return `'${value.replaceAll("'", "'\\''")}'`;
}
