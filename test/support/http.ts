import { request, type IncomingHttpHeaders } from 'node:http';
import { connect } from 'node:net';
import { pino } from 'pino';
import type { Logger } from '#kernel/log.ts';

export interface RawAnswer {
  readonly status: number;
  readonly headers: IncomingHttpHeaders;
  readonly text: string;
  /** Codes of the errors, of all answers of a batch. */
  readonly codes: readonly unknown[];
  readonly body: unknown;
}

/** One HTTP request as it is given: any headers, any bytes. `fetch` sets and forbids too much. */
export function http(
  url: string,
  options: { method?: string; headers?: Record<string, string>; body?: string | Buffer } = {},
): Promise<RawAnswer> {
  return new Promise((resolve, reject) => {
    const { method = 'POST', headers = {}, body } = options;
    const sent = request(url, { method, headers, agent: false }, (res) => {
      const chunks: Buffer[] = [];
      res.on('data', (chunk: Buffer) => chunks.push(chunk));
      res.on('error', reject);
      res.on('end', () => {
        const text = Buffer.concat(chunks).toString();
        const read = parsed(text);
        const codes = [read].flat().flatMap((one) => {
          const errors = (one as { errors?: { extensions?: { code?: unknown } }[] } | null)?.errors ?? [];
          return errors.map((error) => error.extensions?.code);
        });
        resolve({ status: res.statusCode ?? 0, headers: res.headers, text, codes, body: read });
      });
    });
    sent.on('error', reject);
    sent.end(body);
  });
}

/** A GraphQL request by POST; the body is JSON of what is given, or the text itself. */
export const post = (url: string, body: unknown, headers: Record<string, string> = {}): Promise<RawAnswer> =>
  http(url, {
    headers: { 'content-type': 'application/json', ...headers },
    body: typeof body === 'string' || Buffer.isBuffer(body) ? body : JSON.stringify(body),
  });

/** Sends bytes and gives what comes back until the server closes. */
export function bytes(url: string, text: string): Promise<string> {
  const { hostname, port } = new URL(url);
  return new Promise((resolve, reject) => {
    const chunks: Buffer[] = [];
    const socket = connect(Number(port), hostname, () => socket.write(text));
    socket.on('data', (chunk: Buffer) => chunks.push(chunk));
    socket.on('error', reject);
    socket.on('close', () => resolve(Buffer.concat(chunks).toString()));
  });
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return null; // a page, or nothing
  }
}

export type LogLine = Record<string, unknown> & { readonly level: number; readonly msg: string };

/** A log that is kept. */
export function keptLog(level = 'debug'): { log: Logger; lines: LogLine[] } {
  const lines: LogLine[] = [];
  return { log: pino({ level }, { write: (line: string) => void lines.push(JSON.parse(line) as LogLine) }), lines };
}
