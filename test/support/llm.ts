import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';

/** What the stand-in was asked. */
export interface Asked {
  readonly path: string;
  readonly authorization: string;
  /** As it came, for what must not be in it. */
  readonly raw: string;
  /** Text of the messages. */
  readonly text: string;
}

export interface LlmServer {
  readonly url: string;
  readonly asked: Asked[];
  /** What it answers from now on; the default: a JSON object without any advice. */
  answer: (asked: Asked, res: ServerResponse) => void;
  close(): Promise<void>;
}

/** A chat completion with this text. @see https://platform.openai.com/docs/api-reference/chat/object */
export function says(res: ServerResponse, content: unknown): void {
  const text = typeof content === 'string' ? content : JSON.stringify(content);
  res.writeHead(200, { 'content-type': 'application/json' }).end(
    JSON.stringify({
      id: 'chatcmpl-1',
      object: 'chat.completion',
      created: 1_763_755_200,
      model: 'stand-in',
      choices: [{ index: 0, message: { role: 'assistant', content: text }, finish_reason: 'stop' }],
      usage: { prompt_tokens: 1, completion_tokens: 1, total_tokens: 2 },
    }),
  );
}

/** Something that speaks OpenAI's chat completions on this machine, and understands nothing. */
export async function startLlm(): Promise<LlmServer> {
  const handle = async (req: IncomingMessage, res: ServerResponse): Promise<void> => {
    const chunks: Buffer[] = [];
    for await (const chunk of req) chunks.push(chunk as Buffer);
    const raw = Buffer.concat(chunks).toString();
    const { messages } = JSON.parse(raw) as { messages: { content: unknown }[] };
    const text = messages.map(({ content }) => (typeof content === 'string' ? content : JSON.stringify(content))).join('\n'); // prettier-ignore
    const asked = { path: req.url ?? '', authorization: req.headers.authorization ?? '', raw, text };
    made.asked.push(asked);
    made.answer(asked, res);
  };
  const server = createServer((req, res) => {
    handle(req, res).catch((error: unknown) => res.writeHead(500).end(String(error)));
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const made: LlmServer = {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1`,
    asked: [],
    answer: (_, res) => says(res, { recommendations: [] }),
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
  return made;
}
