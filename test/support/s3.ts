import { rm } from 'node:fs/promises';
import { createRequire } from 'node:module';

/** S3 in this process, by S3rver: objects in a folder that goes when it closes. It believes forged signatures. */
export interface TestS3 {
  readonly url: string;
  readonly credentials: { readonly accessKeyId: string; readonly secretAccessKey: string };
  close(): Promise<void>;
}

interface S3rver {
  run(): Promise<{ readonly port: number }>;
  close(): Promise<void>;
  readonly store: {
    getResourcePath(bucket: string, key: string, kind: string): string;
    deleteObject(bucket: string, key: string): Promise<void>;
  };
  readonly httpServer: { closeAllConnections(): void };
}
// It has no types.
const Server = createRequire(import.meta.url)('@20minutes/s3rver') as new (options: object) => S3rver;

export async function startS3(directory: string, bucket: string): Promise<TestS3> {
  const server = new Server({
    address: '127.0.0.1',
    port: 0,
    silent: true,
    directory,
    vhostBuckets: false,
    configureBuckets: [{ name: bucket, configs: [] }],
  });
  const { store } = server;
  // Its own also removes folders that it has just seen empty, and with them what was put there meanwhile.
  store.deleteObject = async (from, key) => {
    for (const kind of ['object', 'object.md5', 'metadata.json'])
      await rm(store.getResourcePath(from, key, kind), { force: true });
  };
  const { port } = await server.run();
  return {
    url: `http://127.0.0.1:${port}`,
    credentials: { accessKeyId: 'S3RVER', secretAccessKey: 'S3RVER' },
    async close() {
      const closed = server.close();
      server.httpServer.closeAllConnections();
      await closed;
    },
  };
}
