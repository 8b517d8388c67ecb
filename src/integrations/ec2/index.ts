import { randomInt } from 'node:crypto';
import type { Agent } from 'node:http';
import { isIPv4 } from 'node:net';
import type { SSMClientConfig } from '@aws-sdk/client-ssm';
import type { Logger } from '#kernel/log.ts';
import { openBucket } from './bucket.ts';
import { createCommands } from './commands.ts';
import { saidBy } from './errors.ts';
import { looking } from './script.ts';
import { openTunnel } from './tunnel.ts';

export interface Ec2Options {
  readonly instanceId: string;
  readonly region: string;
  /** For requests and answers on their way, which is no place for anything else. */
  readonly bucket: string;
  /** IPv4 address of the instance that its instances of applications are published on; null: as SSM tells it. */
  readonly address: string | null;
  /** Of the Docker engine, on the instance. */
  readonly socketPath: string;
  readonly ssmEndpoint?: string | undefined;
  readonly s3Endpoint?: string | undefined;
  /** Default: those that the SDK finds (environment, files, web identity, container, instance). */
  readonly credentials?: SSMClientConfig['credentials'];
  /** In the names of objects. */
  readonly hostId: string;
  /** For requests on their way to the bucket; nobody else may read there. */
  readonly folder: string;
  /** Inclusive bounds. */
  readonly ports: { readonly from: number; readonly to: number };
  /** For tests: how long is waited, milliseconds. */
  readonly waits?: Partial<Waits>;
  readonly log: Logger;
}

export interface Waits {
  /** Before a command is asked for the first time; then half as long again each time. */
  readonly commandMs: number;
  /** Before more of an answer is asked for. */
  readonly everyMs: number;
  /** The same, while nothing comes. */
  readonly quietMs: number;
  /** How long a command waits on the instance for the end of an answer. */
  readonly answerMs: number;
}

/** The Docker engine of an EC2 instance. */
export interface Ec2 {
  /** Its connections lead to the engine. */
  readonly agent: Agent;
  readonly address: string;
  /** A port there, which was not given a short time ago. The engine says whether it is taken. */
  findPort(): Promise<number>;
  close(): Promise<void>;
}

const usual: Waits = { commandMs: 200, everyMs: 1_000, quietMs: 3_000, answerMs: 1_000 };
const givenAgainMs = 120_000;

/**
 * Reaches the Docker engine of an instance by SSM and a bucket; nothing listens on the instance for it.
 * @throws Error that says what is missing: the instance, its agent, rights, the bucket, a program or the engine there
 */
export async function connectEc2(options: Ec2Options): Promise<Ec2> {
  const { instanceId, region, bucket: name, socketPath, credentials, log } = options;
  const waits = { ...usual, ...options.waits };
  const own = credentials ? { credentials } : {};
  const commands = await createCommands({
    instanceId,
    region,
    endpoint: options.ssmEndpoint,
    firstWaitMs: waits.commandMs,
    ...own,
  });
  const bucket = await openBucket({ bucket: name, region, endpoint: options.s3Endpoint, ...own });
  const close = (): void => {
    commands.close();
    bucket.close();
  };
  try {
    const described = await commands.describe();
    const address = options.address ?? described.address;
    // Whoever is root there says what SSM tells; the address proxy knows IPv4 only.
    if (address === null || !isIPv4(address))
      throw new Error(`SSM tells no IPv4 address of ${instanceId}: set SWITCHYARD_EC2_ADDRESS.`);
    await look();
    const tunnel = await openTunnel({
      commands,
      bucket,
      socketPath,
      prefix: `switchyard/${options.hostId}/`,
      folder: options.folder,
      everyMs: waits.everyMs,
      quietMs: waits.quietMs,
      waitTenths: Math.ceil(waits.answerMs / 100),
      log,
    });
    return {
      agent: tunnel.agent,
      address,
      findPort: portFinder(options.ports),
      async close() {
        await tunnel.close();
        close();
      },
    };
  } catch (error) {
    close();
    throw error;
  }

  async function look(): Promise<void> {
    const output = await commands.run(looking(socketPath)).catch((error: unknown) => {
      throw new Error(`The instance ${instanceId} executes no commands: ${saidBy(error)}`, { cause: error });
    });
    const missing = output.split('\n').filter((line) => line !== '');
    if (missing.includes('socket'))
      throw new Error(`There is no Docker engine at ${socketPath} of the instance ${instanceId}.`);
    if (missing.length > 0)
      throw new Error(`The instance ${instanceId} has not all programs that are needed there: ${missing.join(', ')}.`);
  }
}

function portFinder({ from, to }: Ec2Options['ports']): () => Promise<number> {
  const given = new Map<number, number>();
  return () => {
    const now = performance.now();
    for (const [port, at] of given) if (now - at > givenAgainMs) given.delete(port);
    const size = to - from + 1;
    const first = randomInt(size);
    for (let step = 0; step < size; step += 1) {
      const port = from + ((first + step) % size);
      if (given.has(port)) continue;
      given.set(port, now);
      return Promise.resolve(port);
    }
    return Promise.reject(new Error(`All ports between ${from} and ${to} were given out a moment ago.`));
  };
}
