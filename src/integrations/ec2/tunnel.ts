import { createHash, randomUUID } from 'node:crypto';
import { mkdir, open, rm } from 'node:fs/promises';
import { Agent, createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import path from 'node:path';
import { duplexPair, type Duplex, type Readable } from 'node:stream';
import { setTimeout as delay } from 'node:timers/promises';
import { createGzip } from 'node:zlib';
import type { Logger } from '#kernel/log.ts';
import type { Bucket } from './bucket.ts';
import type { Commands } from './commands.ts';
import { InstanceUnavailable, saidBy } from './errors.ts';
import { beginning, ending, exits, partBytes, reading, toldBy, type Told } from './script.ts';

export interface TunnelOptions {
  readonly commands: Commands;
  readonly bucket: Bucket;
  /** Of the engine, on the instance. */
  readonly socketPath: string;
  /** Begins the names of objects. */
  readonly prefix: string;
  /** For requests on their way to the bucket; nobody else may read there. */
  readonly folder: string;
  /** How often an answer that goes on is asked for, milliseconds; less often while nothing comes. */
  readonly everyMs: number;
  readonly quietMs: number;
  /** How long a command waits for the end of an answer, tenths of a second. */
  readonly waitTenths: number;
  readonly log: Logger;
}

export interface Tunnel {
  /** Its connections lead to the engine of the instance. */
  readonly agent: Agent;
  close(): Promise<void>;
}

/** How often in a row a part of an answer may not come before the request fails. */
const patience = 3;
/** How often the same failure is logged, milliseconds. */
const tellAgainMs = 60_000;
/** A request that was answered may arrive a second time within this time: its folder stays so long, milliseconds. */
const repeatedMs = 60_000;
/** A server that died asks for nothing any more. */
const abandonedS = 60;
/** Of the server in this process: the engine takes addresses of so many bytes as well. */
const limits = { requestTimeout: 0, headersTimeout: 0, keepAliveTimeout: 1, maxHeaderSize: 2 ** 20 };
const types = new Set(['application/json', 'application/tar', 'application/x-tar']);

/**
 * HTTP requests to the Docker engine of another machine, made there by commands and answered through a bucket. A command
 * begins one and takes what is answered soon; the rest is taken part by part, by its offset, so that nothing is cut,
 * comes twice, or waits in the agent. What cannot be asked now is answered with 503.
 */
export async function openTunnel(options: TunnelOptions): Promise<Tunnel> {
  const { commands, bucket, socketPath, prefix, folder, log } = options;
  await mkdir(folder, { recursive: true, mode: 0o700 });
  /** Requests whose folders can go, and when they ended. */
  const ended: { readonly id: string; readonly at: number }[] = [];
  const running = new Set<Promise<void>>();
  const closing = new AbortController();
  let logged = { reason: '', at: -Infinity };

  const server = createServer(limits, (request, response) => {
    const done: Promise<void> = forward(request, response).finally(() => running.delete(done));
    running.add(done);
  });
  return {
    agent: new PairAgent((end) => server.emit('connection', end)),
    async close() {
      closing.abort(new InstanceUnavailable('this server stops'));
      await Promise.all(running);
      server.close();
    },
  };

  /** What everybody is told of a failure; operators find all of it in the log, the same one once in a while. */
  function toldOfFailure(error: unknown): string {
    const reason = saidBy(error);
    const now = performance.now();
    if (logged.reason !== reason || now - logged.at > tellAgainMs) {
      logged = { reason, at: now };
      log.error({ reason }, 'the Docker engine of the instance cannot be asked');
    }
    return error instanceof InstanceUnavailable ? error.told : 'the request could not be made';
  }

  /** Never rejects. */
  async function forward(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const id = randomUUID();
    const gone = new AbortController();
    response.once('close', () => gone.abort(new Error('the request was given up')));
    const signal = AbortSignal.any([gone.signal, closing.signal]);
    const objects = new Set<string>();
    const state = { begun: false, complete: false };
    try {
      await converse(id, request, response, signal, objects, state);
    } catch (error) {
      if (!gone.signal.aborted) {
        const message = toldOfFailure(error);
        if (!response.headersSent) {
          response.writeHead(503, { 'content-type': 'application/json', connection: 'close' });
          response.end(JSON.stringify({ message }));
        } else response.destroy();
      }
    }
    request.resume();
    if (state.begun && !state.complete)
      await commands.run(ending(id)).catch((error: unknown) => {
        // It ends itself when nobody asks for it.
        log.warn({ reason: saidBy(error) }, 'a request on the instance could not be ended');
      });
    if (state.begun) ended.push({ id, at: performance.now() });
    for (const key of objects) await removed(key);
  }

  async function converse(
    id: string,
    request: IncomingMessage,
    response: ServerResponse,
    signal: AbortSignal,
    objects: Set<string>,
    state: { begun: boolean; complete: boolean },
  ): Promise<void> {
    const { method = 'GET', url = '/' } = request;
    const contentType = request.headers['content-type'] ?? 'application/json';
    // In a file of curl's options " and \\ would mean something.
    if (!types.has(contentType) || !/^[A-Z]+$/.test(method) || !/^\/[^\s"\\]*$/.test(url))
      throw new Error('such a request is not forwarded');
    const hasBody =
      request.headers['transfer-encoding'] !== undefined || Number(request.headers['content-length'] ?? 0) > 0;
    const body = hasBody ? await sent(id, url, request, contentType, signal, objects) : null;
    let [offset, misses] = [0, 0];
    let waitMs = options.everyMs;
    for (let turn = 0, known = false; ; turn += 1) {
      const key = `${prefix}${id}/answer.${turn}`;
      let told: Told;
      let bytes: Buffer | null;
      try {
        const part = { offset, url: await bucket.address(key, 'write'), waitTenths: known ? 0 : options.waitTenths };
        signal.throwIfAborted();
        state.begun = true;
        objects.add(key);
        const script = known
          ? reading(id, part)
          : beginning(
              { id, method, socketPath, path: body ? null : url, contentType, body, abandonedS },
              part,
              forgotten(),
            );
        told = await toldOf(script, signal);
        known = true;
        bytes = told.bytes > 0 ? await bucket.take(key, signal) : null;
        if (bytes && bytes.length !== told.bytes) throw new InstanceUnavailable('a part of the answer was cut');
      } catch (error) {
        signal.throwIfAborted();
        misses += 1;
        // What has begun goes on there meanwhile.
        if (!(error instanceof InstanceUnavailable) || !known || misses >= patience) throw error;
        await delay(options.quietMs, undefined, { signal });
        continue;
      }
      misses = 0;
      if (told.over !== null && told.over !== 0 && told.status === null) throw failureOf(told);
      if (told.status !== null && !response.headersSent) {
        response.writeHead(told.status, { 'content-type': 'application/json' });
        response.flushHeaders();
      }
      if (bytes) {
        if (!response.write(bytes)) await drained(response, signal);
        objects.delete(key);
        await removed(key);
      }
      offset += told.bytes;
      if (told.over !== null && offset >= told.size) {
        state.complete = true;
        if (told.over === 0) response.end();
        // Broken off there, and so here.
        else response.destroy();
        return;
      }
      waitMs = bytes ? options.everyMs : Math.min(waitMs * 1.5, options.quietMs);
      if (told.bytes < partBytes) await delay(waitMs, undefined, { signal });
    }
  }

  async function toldOf(script: string, signal: AbortSignal): Promise<Told> {
    const told = toldBy(await commands.run(script, signal));
    if (told === null) throw new InstanceUnavailable('the request is not there any more');
    if (told.notPut) throw new InstanceUnavailable('the instance cannot write to the bucket', told.why);
    return told;
  }

  /** Puts path and body into the bucket: neither is to be in the history of commands. */
  async function sent(
    id: string,
    url: string,
    request: IncomingMessage,
    contentType: string,
    signal: AbortSignal,
    objects: Set<string>,
  ): Promise<{ url: string; sha256: string }> {
    const name = path.join(folder, id);
    await using file = await open(name, 'wx+', 0o600);
    // Nobody finds it, and nothing is left of it whatever happens to this process.
    await rm(name);
    const hash = createHash('sha256');
    const whole = withPath(url, contentType.endsWith('tar') ? gzipped(request) : request);
    for await (const chunk of whole) {
      signal.throwIfAborted();
      hash.update(chunk);
      await file.appendFile(chunk);
    }
    const key = `${prefix}${id}/ask`;
    objects.add(key);
    await bucket.put(key, file, signal);
    return { url: await bucket.address(key, 'read'), sha256: hash.digest('hex') };
  }

  /** Ids of requests whose folders are empty and may go. */
  function forgotten(): string[] {
    const old = ended.findIndex(({ at }) => performance.now() - at < repeatedMs);
    return ended.splice(0, Math.min(old < 0 ? ended.length : old, 50)).map(({ id }) => id);
  }

  async function removed(key: string): Promise<void> {
    await bucket.remove(key).catch((error: unknown) => {
      // A rule of the bucket removes what is old.
      log.warn({ reason: saidBy(error) }, 'an object could not be removed from the bucket');
    });
  }
}

async function* withPath(url: string, body: AsyncIterable<Buffer>): AsyncGenerator<Buffer, void, undefined> {
  yield Buffer.from(`${url}\n`);
  yield* body;
}

/** The engine unpacks it by itself. */
function gzipped(body: Readable): Readable {
  const packed = createGzip();
  const failed = (error: Error): void => void packed.destroy(error);
  body.once('error', failed);
  body.once('aborted', () => failed(new Error('the request was given up')));
  return body.pipe(packed);
}

async function drained(to: ServerResponse, signal: AbortSignal): Promise<void> {
  await new Promise<void>((resolve, reject) => {
    const stop = (): void => reject(signal.reason as Error);
    if (signal.aborted) return stop();
    signal.addEventListener('abort', stop, { once: true });
    to.once('drain', () => {
      signal.removeEventListener('abort', stop);
      resolve();
    });
  });
}

/** Of curl. */
const noConnection = 7;

function failureOf({ over, why }: Told): InstanceUnavailable {
  const failed = (told: string) => new InstanceUnavailable(told, why.replaceAll(/\s+/g, ' '));
  if (over === exits.fetch) return failed('the instance cannot fetch from the bucket');
  if (over === exits.digest) return failed('what the instance fetched from the bucket is not what was sent');
  if (over === noConnection) return failed('no Docker engine listens on the instance');
  return failed(`the request to the engine of the instance failed (curl ${over})`);
}

/** Connections that lead to a server of this process, and through no socket that anybody could find. */
class PairAgent extends Agent {
  readonly #accept: (end: Duplex) => void;
  constructor(accept: (end: Duplex) => void) {
    super({ keepAlive: false, maxSockets: Infinity });
    this.#accept = accept;
  }

  override createConnection(): Duplex {
    const [ours, theirs] = duplexPair();
    ours.once('close', () => theirs.destroy());
    theirs.once('close', () => ours.destroy());
    ours.on('error', () => ours.destroy());
    theirs.on('error', () => theirs.destroy());
    this.#accept(theirs);
    return ours;
  }
}
