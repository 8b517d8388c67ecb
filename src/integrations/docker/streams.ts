import type { Readable } from 'node:stream';

export interface Splitter {
  push(chunk: string): void;
  end(): void;
}

/** A message of the engine may not be longer; one of a build's output is cut by the engine far below it. */
const maxMessage = 4 * 2 ** 20;

/** The JSON objects of a stream, one a line. */
export async function* messagesOf(stream: Readable): AsyncGenerator<Record<string, unknown>, void, undefined> {
  let rest = '';
  for await (const chunk of stream.setEncoding('utf8') as AsyncIterable<string>) {
    const lines = (rest + chunk).split('\n');
    rest = lines.pop() ?? '';
    if (rest.length > maxMessage) throw new Error('The engine sent a message without an end.');
    for (const line of lines) if (line.trim() !== '') yield JSON.parse(line) as Record<string, unknown>;
  }
  if (rest.trim() !== '') yield JSON.parse(rest) as Record<string, unknown>;
}

/** The lines of a container's two outputs, which the engine sends in frames: one byte of which, three of nothing, four of length. */
export async function* linesOf(
  stream: Readable,
  lineSplitter: (emit: (line: string) => void) => Splitter,
): AsyncGenerator<string, void, undefined> {
  const ready: string[] = [];
  const outputs = new Map<number, { splitter: Splitter; decoder: TextDecoder }>();
  const push = (which: number, bytes: Buffer): void => {
    let one = outputs.get(which);
    if (!one) {
      one = { splitter: lineSplitter((line) => ready.push(line)), decoder: new TextDecoder() };
      outputs.set(which, one);
    }
    one.splitter.push(one.decoder.decode(bytes, { stream: true }));
  };
  let head = Buffer.alloc(0);
  let left = 0;
  let which = 1;
  for await (const chunk of stream as AsyncIterable<Buffer>) {
    let rest = chunk;
    while (rest.length > 0) {
      if (left > 0) {
        push(which, rest.subarray(0, left));
        const taken = Math.min(left, rest.length);
        left -= taken;
        rest = rest.subarray(taken);
        continue;
      }
      const missing = 8 - head.length;
      head = Buffer.concat([head, rest.subarray(0, missing)]);
      rest = rest.subarray(missing);
      if (head.length < 8) break;
      which = head.readUInt8(0);
      left = head.readUInt32BE(4);
      head = Buffer.alloc(0);
    }
    yield* ready.splice(0);
  }
  for (const { splitter } of outputs.values()) splitter.end();
  yield* ready;
}
