/**
 * The `data` of each server-sent event of a body (https://html.spec.whatwg.org/#event-stream-interpretation; vLLM
 * ends its lines with a line feed and names events only where the data names them too).
 */
export async function* readEvents(body: AsyncIterable<Uint8Array>): AsyncGenerator<string, void, undefined> {
  const decoder = new TextDecoder();
  let text = "";
  let data: string[] = [];
  for await (const bytes of body) {
    text += decoder.decode(bytes, { stream: true });
    const lines = text.split(/\r?\n/);
    text = lines.pop() ?? "";
    for (const line of lines) {
      if (line.startsWith("data:")) data.push(line.slice(line[5] === " " ? 6 : 5));
      else if (line === "" && data.length > 0) {
        yield data.join("\n");
        data = [];
      }
    }
  }
}
