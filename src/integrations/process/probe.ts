import { request } from 'node:http';
import { codeOf } from '#kernel/system-error.ts';

const maxBody = 2_000;

export interface ProbeResult {
  /** 2xx or 3xx came in time. */
  readonly ok: boolean;
  readonly status?: number;
  /** At most 2000 bytes of the body. */
  readonly bodyStart?: string;
  readonly error?: string;
  readonly latencyMs: number;
}

export interface ProbeRequest {
  /** Default 127.0.0.1. */
  readonly host?: string;
  readonly port: number;
  readonly path: string;
  readonly timeoutMs: number;
  readonly signal: AbortSignal;
}

/**
 * One GET; redirects are not followed.
 * @param objection why an answer is not the instance's, asked after it; null: it is
 * @throws only the signal's reason
 */
export async function probe(
  { host = '127.0.0.1', port, path, timeoutMs, signal }: ProbeRequest,
  objection: () => Promise<string | null>,
): Promise<ProbeResult> {
  const from = performance.now();
  const late = AbortSignal.timeout(timeoutMs);
  try {
    const stop = AbortSignal.any([signal, late]);
    stop.throwIfAborted();
    const answer = await get(host, port, path, stop);
    const stranger = await objection();
    const latencyMs = Math.round(performance.now() - from);
    if (stranger) return { ok: false, error: stranger, latencyMs };
    return { ok: answer.status >= 200 && answer.status < 400, ...answer, latencyMs };
  } catch (error) {
    signal.throwIfAborted();
    const reason = late.aborted ? `no answer within ${timeoutMs} ms` : describe(error);
    return { ok: false, error: reason, latencyMs: Math.round(performance.now() - from) };
  }
}

function get(
  host: string,
  port: number,
  path: string,
  signal: AbortSignal,
): Promise<{ status: number; bodyStart: string }> {
  return new Promise((resolve, reject) => {
    const sent = request(
      { host, port, path, method: 'GET', agent: false, signal, headers: { connection: 'close' } },
      (response) => {
        const parts: Buffer[] = [];
        let size = 0;
        const finish = (): void => {
          const bodyStart = Buffer.concat(parts).subarray(0, maxBody).toString();
          resolve({ status: response.statusCode ?? 0, bodyStart });
          response.destroy();
        };
        response.on('data', (chunk: Buffer) => {
          parts.push(chunk);
          size += chunk.length;
          if (size >= maxBody) finish();
        });
        response.once('end', finish);
        response.once('error', reject);
      },
    );
    sent.once('error', reject);
    sent.end();
  });
}

function describe(error: unknown): string {
  const code = codeOf(error);
  if (code === 'ECONNREFUSED') return 'nothing listens on the port';
  return error instanceof Error ? error.message : String(error);
}
