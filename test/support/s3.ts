import { once } from 'node:events';
import { createServer, request, type IncomingMessage, type ServerResponse } from 'node:http';
import { mkdtemp, rm } from 'node:fs/promises';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import S3rver from '@20minutes/s3rver';

export interface TestS3 {
  readonly endpoint: string;
  readonly bucket: string;
  /** Where its objects are. */
  readonly folder: string;
  stop(): Promise<void>;
}

/** Anything will do: it takes every signature. */
export const credentials = { accessKeyId: 'S3RVER', secretAccessKey: 'S3RVER' };

/** An S3 server in this process, with one bucket. */
export async function startS3rver(bucket = 'blobs'): Promise<TestS3> {
  const directory = await mkdtemp(path.join(tmpdir(), 'switchyard-s3-'));
  const server = new S3rver({
    address: '127.0.0.1',
    port: 0,
    silent: true,
    directory,
    allowMismatchedSignatures: true,
    configureBuckets: [{ name: bucket }],
  });
  const { store } = server;
  // Its own also removes folders that it has just seen empty, and with them what was put there meanwhile.
  store.deleteObject = async (from, key) => {
    for (const kind of ['object', 'object.md5', 'metadata.json'])
      await rm(store.getResourcePath(from, key, kind), { force: true });
  };
  const { port } = await server.run();
  return {
    endpoint: `http://127.0.0.1:${port}`,
    bucket,
    folder: path.join(directory, bucket),
    async stop() {
      const closed = server.close();
      server.httpServer.closeAllConnections();
      await closed;
      await rm(directory, { recursive: true, force: true });
    },
  };
}

/** What happens to a request on its way; true: it was answered, or never will be. */
export type Mishap = (req: IncomingMessage, res: ServerResponse, forward: () => Promise<void>) => boolean;

export interface Meddler {
  readonly endpoint: string;
  /** `METHOD /path?query` of everything that came. */
  readonly seen: string[];
  /** Decides on each request until it is set to null. */
  mishap: Mishap | null;
  stop(): Promise<void>;
}

/** Stands before an S3 server and lets requests fail. */
export async function startMeddler(target: string): Promise<Meddler> {
  const { hostname, port } = new URL(target);
  const meddler: Omit<Meddler, 'endpoint' | 'stop'> = { seen: [], mishap: null };
  const server = createServer((req, res) => {
    meddler.seen.push(`${req.method} ${req.url}`);
    /** Has the server do it; `answer` says whether the client hears of it. */
    const forward = (answer: boolean) =>
      new Promise<void>((resolve) => {
        const onward = request({ hostname, port, method: req.method, path: req.url, headers: req.headers }, (back) => {
          if (!answer) {
            back.resume();
            back.once('end', resolve);
            return;
          }
          res.writeHead(back.statusCode ?? 502, back.headers);
          back.pipe(res);
          back.once('end', resolve);
        });
        onward.once('error', () => {
          res.destroy();
          resolve();
        });
        req.pipe(onward);
      });
    if (meddler.mishap?.(req, res, () => forward(false))) return;
    void forward(true);
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port: own } = server.address() as AddressInfo;
  return Object.assign(meddler, {
    endpoint: `http://127.0.0.1:${own}`,
    async stop() {
      server.closeAllConnections();
      server.close();
      await once(server, 'close');
    },
  });
}

/** An answer of S3 that refuses. */
export function refuse(req: IncomingMessage, res: ServerResponse, status: number, code: string): void {
  req.resume();
  req.once('end', () => {
    res.writeHead(status, { 'content-type': 'application/xml' });
    res.end(`<?xml version="1.0"?><Error><Code>${code}</Code><Message>${code}</Message></Error>`);
  });
}
