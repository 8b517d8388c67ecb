import { statfs } from 'node:fs/promises';
import type { Agent } from 'node:http';
import { Readable } from 'node:stream';
import { setTimeout as delay } from 'node:timers/promises';
import type Docker from 'dockerode';
import { DomainError } from '#kernel/errors.ts';
import { codeOf, DiskFull } from '#kernel/system-error.ts';
import { absentAsNull, createEngine, DriverUnavailable, isFull, saidBy, statusOf, translated } from './engine.ts';
import { sizesOf, type DiskUsage } from './disk.ts';
import { toUsage } from './usage.ts';
import { linesOf, messagesOf, type Splitter } from './streams.ts';
import { objectionTo } from './dockerfile.ts';
import { ContextRefused, contextOf, readSmall } from './tar.ts';

/** The image could not be built. */
export class ImageBuildFailed extends DomainError {
  readonly code = 'BUILD_FAILED';
}

/** The engine would not start a container of the image. */
export class StartRefused extends DomainError {
  readonly code = 'START_REFUSED';
}

type Opaque = { readonly [key: string]: string | number | boolean | null };
type Log = (line: string, stream?: 'STDOUT' | 'STDERR' | 'SYSTEM') => void | Promise<void>;
type Environment = Readonly<Record<string, string>>;
type Maker = { readonly applicationId: string; readonly runId: string; readonly attempt: number };
type Probe = { readonly ok: boolean; readonly error?: string; readonly latencyMs: number };
type ProbeRequest = {
  readonly port: number;
  readonly path: string;
  readonly timeoutMs: number;
  readonly signal: AbortSignal;
};

/** What the host has for all of its drivers. */
export interface HostKit {
  /** A port of the range for instances that nobody else is given. */
  findPort(): Promise<number>;
  /** Users who listen on a port of 127.0.0.1; null: the system does not tell. */
  listenersOf(port: number): Promise<number[] | null>;
  lineSplitter(emit: (line: string) => void): Splitter;
  detectProject(path: string): Promise<{ readonly buildCommand: string | null; readonly startCommand: string }>;
  probe(what: ProbeRequest, objection: () => Promise<string | null>): Promise<Probe>;
}

/** An engine of another machine. */
export interface RemoteEngine {
  readonly name: 'EC2';
  /** Opens connections to the engine. */
  readonly agent: Agent;
  /** IPv4 address of that machine that instances are published on. */
  readonly address: string;
  /** How long an answer about what runs may be used again, milliseconds: each costs more than a call on this machine. */
  readonly sharedMs: number;
  /** How long words that are on their way are waited for when following ends, milliseconds. */
  readonly lastWordsMs: number;
}

export interface DockerDriverOptions {
  /** Of an engine of this machine, or what leads to one of another. */
  readonly engine: string | RemoteEngine;
  /** On the label of all that is this host's. */
  readonly hostId: string;
  /** Base of generated Dockerfiles. */
  readonly nodeImage: string;
  /** Of an instance, where its application has no own. */
  readonly limits: { readonly memoryMb: number; readonly milliCpus: number; readonly maxProcesses: number };
  readonly build: {
    readonly memoryMb: number;
    readonly milliCpus: number;
    /** For generated Dockerfiles, as build arguments: they can be read in the image's history. */
    readonly environment: Environment;
  };
  readonly kit: HostKit;
}

/** Where instances listen unless the image exposes one port. */
const usualPort = 8080;
const mib = 2 ** 20;
type Running = ReadonlyMap<string, readonly number[]>;
const context = { maxBytes: 2 ** 30, maxFiles: 200_000 };
/** How much of its output the engine keeps for each container. */
const output = { 'max-size': '10m', 'max-file': '2' };
/** What images expect of their root user; Docker's usual ones without raw sockets, devices and the like. */
const capabilities = ['CHOWN', 'DAC_OVERRIDE', 'FOWNER', 'KILL', 'NET_BIND_SERVICE', 'SETGID', 'SETUID'];
/** How long it may take the engine to measure its disk, milliseconds. */
const measureMs = 300_000;
/** How long words that were on their way are waited for when following ends. */
const lastWordsMs = 200;
/** How long it may take to be told what runs at an engine of another machine, for all who wait together, milliseconds. */
const toldWithinMs = 5_000;

const label = {
  host: 'switchyard.host',
  application: 'switchyard.application',
  run: 'switchyard.run',
  attempt: 'switchyard.attempt',
} as const;

export type DockerDriver = Awaited<ReturnType<typeof createDockerDriver>>;

/**
 * The driver of a Docker engine, of this machine or another one: an artifact is an image, an instance a container.
 * Everything has labels with the host, application and run, so nothing needs to be remembered. Containers are not
 * restarted by the engine.
 */
export async function createDockerDriver(options: DockerDriverOptions) {
  const { hostId, kit } = options;
  const remote = typeof options.engine === 'string' ? null : options.engine;
  const address = remote?.address ?? '127.0.0.1';
  const engine = await createEngine(
    typeof options.engine === 'string' ? { socketPath: options.engine } : options.engine,
  );
  const network = `switchyard-${hostId}`;
  let finding: Promise<string> | null = null;
  const ownLabels = ({ applicationId, runId, attempt }: Maker) => ({
    [label.host]: hostId,
    [label.application]: applicationId,
    [label.run]: runId,
    [label.attempt]: String(attempt),
  });
  const labeled = (more: readonly string[] = []) => ({ label: [`${label.host}=${hostId}`, ...more] });

  let shared: { readonly asked: Promise<Running>; readonly since: number; until: number } | null = null;
  const forgetRunning = (): void => void (shared = null);

  const driver = {
    name: remote?.name ?? ('DOCKER' as const),

    /** Whether the engine is there. */
    async answers(): Promise<boolean> {
      try {
        await engine.ask((docker) => docker.ping());
        return true;
      } catch (error) {
        if (error instanceof DriverUnavailable) return false;
        throw error;
      }
    },

    async build(
      what: Maker & {
        readonly source: string;
        readonly buildCommand: string | null;
        readonly startCommand: string | null;
        readonly signal: AbortSignal;
        readonly timeoutMs: number;
        readonly log: Log;
      },
    ) {
      const { source, log, signal } = what;
      signal.throwIfAborted();
      const { added, command } = await recipe(what).catch((error: unknown) => {
        throw error instanceof ContextRefused ? new ImageBuildFailed(error.message) : error;
      });
      await log(
        'Dockerfile' in added ? 'Building a generated Dockerfile:' : 'Building the Dockerfile of the repository.',
      );
      for (const line of added['Dockerfile']?.trimEnd().split('\n') ?? []) await log(line);
      const networkMode = await bridge();
      const tag = `switchyard/${hostId}/${what.applicationId}:${what.runId}.${what.attempt}`;
      const late = AbortSignal.timeout(what.timeoutMs);
      const stop = AbortSignal.any([signal, late]);
      const refused: unknown[] = [];
      try {
        const files = Readable.from(contextOf(source, added, context));
        // What the context cannot be sent for ends the request; the reason must not be lost.
        const broken = new AbortController();
        files.once('error', (error) => {
          refused.push(error);
          broken.abort(error);
        });
        await streamBuild(files, tag, networkMode, what, AbortSignal.any([stop, broken.signal]));
      } catch (thrown) {
        signal.throwIfAborted();
        if (late.aborted) throw new ImageBuildFailed('The build took too long.');
        const error = refused[0] ?? thrown;
        if (error instanceof ContextRefused) throw new ImageBuildFailed(error.message);
        // It could not read the Dockerfile.
        if (statusOf(error) === 400) throw new ImageBuildFailed(saidBy(error).slice(0, 2000));
        throw translated(error);
      }
      const image = await engine.ask((docker) => docker.getImage(tag).inspect());
      // Its digest: rebuilt or not, this very image is what starts, now and after a rollback.
      await log(`Built ${image.Id}`);
      const port = portOf(image);
      return { artifact: { image: image.Id, tag, port, command }, imageId: image.Id };
    },

    async start(
      what: Maker & {
        readonly artifact: Opaque;
        readonly environment: Environment;
        readonly limits: { readonly memoryMb: number | null; readonly milliCpus: number | null };
        readonly log?: Log;
        readonly record?: (instance: Opaque) => Promise<void>;
      },
    ) {
      const { image, port: inner, command } = imageOf(what.artifact);
      const memory = (what.limits.memoryMb ?? options.limits.memoryMb) * mib;
      const milliCpus = what.limits.milliCpus ?? options.limits.milliCpus;
      const networkMode = await bridge();
      for (let attempt = 1; ; attempt += 1) {
        const port = await kit.findPort();
        const environment = { ...what.environment, PORT: String(inner), HOST: '0.0.0.0' };
        const container = await engine.ask((docker) =>
          docker
            .createContainer(
              inBody({
                Image: image,
                ...(command === null ? {} : { Entrypoint: ['/bin/sh', '-c'], Cmd: [command] }),
                Env: Object.entries(environment).map(([name, value]) => `${name}=${value}`),
                Labels: ownLabels(what),
                ExposedPorts: { [`${inner}/tcp`]: {} },
                HostConfig: {
                  NetworkMode: networkMode,
                  // Only there, and only this one.
                  PortBindings: { [`${inner}/tcp`]: [{ HostIp: address, HostPort: String(port) }] },
                  PublishAllPorts: false,
                  Memory: memory,
                  MemorySwap: memory,
                  NanoCpus: milliCpus * 1e6,
                  PidsLimit: options.limits.maxProcesses,
                  CapDrop: ['ALL'],
                  CapAdd: capabilities,
                  SecurityOpt: ['no-new-privileges'],
                  RestartPolicy: { Name: 'no' },
                  LogConfig: { Type: 'json-file', Config: output },
                },
              }),
            )
            .catch((error: unknown) => {
              if (statusOf(error) === 404) throw new StartRefused('The image of this release is gone.');
              throw error;
            }),
        );
        const instance = { container: container.id };
        try {
          await what.record?.(instance);
          await engine.ask((docker) => docker.getContainer(container.id).start());
          forgetRunning();
        } catch (error) {
          await driver.stop(instance, 0).catch(() => undefined); // the agent finds it by its labels
          // Another program was faster at the port.
          if (attempt < 3 && what.record === undefined && isPortTaken(error)) continue;
          if (isPortTaken(error)) throw new StartRefused(`The port ${port} was taken by another program.`);
          if (statusOf(error) === 400) throw new StartRefused(saidBy(error));
          throw error;
        }
        await what.log?.(`Started ${image} as container ${container.id.slice(0, 12)} on port ${port}.`);
        const uid = remote ? null : await listenerOf(port);
        return { instance, port, uid, logFrom: 0, ...(remote ? { host: address } : {}) };
      }
    },

    async alive(instance: Opaque): Promise<boolean> {
      return (await portsOf(instance)) !== null;
    },

    probe: (what: ProbeRequest & { readonly instance: Opaque }) =>
      kit.probe(what, async () => {
        try {
          const published = await portsOf(what.instance);
          return published?.includes(what.port) ? null : 'the container does not run, something else answered';
        } catch (error) {
          if (error instanceof DriverUnavailable) return error.message;
          throw error;
        }
      }),

    async usage(instances: readonly Opaque[]) {
      return Promise.all(instances.map((one) => usageOf(containerOf(one))));
    },

    /** Images, and what containers have written in themselves and in their volumes; the engine keeps their output short. */
    async sizes(signal: AbortSignal): Promise<ReadonlyMap<string, number>> {
      // It looks at every file of every container, which takes a while.
      const late = AbortSignal.timeout(measureMs);
      const told = await Promise.race([
        engine.streams.df().catch((error: unknown) => {
          throw translated(error);
        }) as Promise<DiskUsage>,
        aborted(AbortSignal.any([signal, late])).catch((error: unknown) => {
          signal.throwIfAborted();
          throw new DriverUnavailable(`it did not tell what is on its disk: ${String(error)}`);
        }),
      ]);
      return sizesOf(told, (labels) => (labels?.[label.host] === hostId ? labels[label.application] : undefined));
    },

    /** Null: it is on another machine, or this process may not see it. */
    async free(): Promise<number | null> {
      if (remote) return null;
      const { DockerRootDir: root } = (await engine.ask((docker) => docker.info())) as { DockerRootDir?: string };
      try {
        const { bavail, bsize } = await statfs(root ?? '');
        return bavail * bsize;
      } catch (error) {
        if (['ENOENT', 'EACCES'].includes(String(codeOf(error)))) return null;
        throw error;
      }
    },

    async ending(instance: Opaque): Promise<string | null> {
      const found = await inspect(instance);
      if (!found || found.State.Running) return null;
      if (found.State.OOMKilled)
        return `It took more than its ${Math.round((found.HostConfig.Memory ?? 0) / mib)} MiB of memory.`;
      return found.State.Error || null;
    },

    async tail({ instance }: { readonly instance: Opaque }, lines: number): Promise<string[]> {
      const id = containerOf(instance);
      const all: string[] = [];
      const logs = await absentAsNull(
        engine.ask((docker) =>
          docker.getContainer(id).logs({ stdout: true, stderr: true, follow: false, tail: lines }),
        ),
      );
      if (logs === null) return [];
      for await (const line of linesOf(Readable.from([logs]), kit.lineSplitter)) all.push(line);
      return all.slice(-lines);
    },

    async *follow(
      { instance }: { readonly instance: Opaque },
      _logFrom: number,
      signal: AbortSignal,
    ): AsyncGenerator<string, void, undefined> {
      const id = containerOf(instance);
      const end = new AbortController();
      const later = (): void => void delay(remote?.lastWordsMs ?? lastWordsMs).then(() => end.abort());
      if (signal.aborted) later();
      else signal.addEventListener('abort', later, { once: true });
      try {
        const logs = await absentAsNull(
          engine.streams.getContainer(id).logs({
            stdout: true,
            stderr: true,
            follow: true,
            abortSignal: end.signal,
          } as never) as unknown as Promise<Readable>,
        );
        if (logs) yield* linesOf(logs, kit.lineSplitter);
      } catch (error) {
        if (!end.signal.aborted) throw translated(error);
      } finally {
        signal.removeEventListener('abort', later);
        end.abort();
      }
    },

    async stop(instance: Opaque, graceMs: number): Promise<void> {
      const id = containerOf(instance);
      await engine.ask(async (docker) => {
        const container = docker.getContainer(id);
        try {
          if (graceMs > 0) await container.stop({ t: Math.ceil(graceMs / 1000) });
        } catch (error) {
          if (![304, 404].includes(statusOf(error) ?? 0)) throw error; // it had ended
        }
        try {
          await container.remove({ force: true, v: true });
        } catch (error) {
          if (![404, 409].includes(statusOf(error) ?? 0)) throw error; // it is being removed
        }
      });
      forgetRunning();
    },

    async remove(artifact: Opaque): Promise<void> {
      const { tag, image } = artifact;
      await removeImage(typeof tag === 'string' ? tag : String(image));
    },

    async forget({ applicationId }: { readonly applicationId: string }): Promise<void> {
      const filters = labeled([`${label.application}=${applicationId}`]);
      const containers = await engine.ask((docker) => docker.listContainers({ all: true, filters }));
      for (const { Id } of containers) await driver.stop({ container: Id }, 0);
      const images = await engine.ask((docker) => docker.listImages({ filters }));
      for (const { Id, RepoTags } of images) for (const name of namesOf(Id, RepoTags)) await removeImage(name);
    },

    async list() {
      const [containers, images] = await engine.ask((docker) =>
        Promise.all([
          docker.listContainers({ all: true, filters: labeled() }),
          docker.listImages({ filters: labeled() }),
        ]),
      );
      return {
        instances: containers.map(({ Id, Labels, Created }) => ({
          instance: { container: Id },
          runId: Labels[label.run] ?? '',
          attempt: Number(Labels[label.attempt] ?? 0),
          ageMs: Date.now() - Created * 1000,
        })),
        // Two runs may have made the same image: each has a name of its own for it.
        artifacts: images.flatMap(({ Id, RepoTags }) =>
          namesOf(Id, RepoTags).flatMap((tag) => {
            const runId = /:([0-9a-zA-Z-]+)\.\d+$/.exec(tag)?.[1];
            return runId === undefined ? [] : [{ artifact: { tag }, runId }];
          }),
        ),
      };
    },

    /** Removes what this host has there; for tests and for hosts that are given up. */
    async clear(): Promise<void> {
      const { instances, artifacts } = await driver.list();
      for (const { instance } of instances) await driver.stop(instance, 0);
      for (const { artifact } of artifacts) await driver.remove(artifact);
      await engine.ask(async (docker) => {
        for (const id of await networks(docker)) await absentAsNull(docker.getNetwork(id).remove());
      });
    },
  };
  return driver;

  /** The Dockerfile of the repository, or one for a Node project; and the command that starts it, where it is given. */
  async function recipe(what: {
    readonly source: string;
    readonly buildCommand: string | null;
    readonly startCommand: string | null;
  }): Promise<{ added: Readonly<Record<string, string>>; command: string | null }> {
    const { source, buildCommand, startCommand } = what;
    const given = buildCommand === null ? await readSmall(source, 'Dockerfile') : null;
    if (given !== null) {
      const objection = objectionTo(given);
      if (objection !== null) throw new ImageBuildFailed(`Dockerfile: ${objection}`);
      return { added: {}, command: startCommand };
    }
    const known = buildCommand !== null && startCommand !== null;
    const detected = known
      ? null
      : await kit.detectProject(source).catch((error: unknown) => {
          // Only what is not given must be found out.
          if (startCommand !== null) return null;
          throw error;
        });
    const build = buildCommand ?? detected?.buildCommand ?? null;
    // The form of a list: nothing in it is a variable or a line of the Dockerfile.
    const shell = (command: string): string => JSON.stringify(['/bin/sh', '-c', command]);
    const variables = Object.keys(options.build.environment);
    const dockerfile = [
      `FROM ${options.nodeImage}`,
      'ENV NODE_ENV=production HOME=/tmp npm_config_update_notifier=false npm_config_audit=false npm_config_fund=false',
      ...variables.map((name) => `ARG ${name}`),
      // What is the same for all comes first: the engine has it already.
      'USER 10000:10000',
      'COPY --chown=10000:10000 . /app',
      'WORKDIR /app',
      ...(build === null ? [] : [`RUN ${shell(build)}`]),
      `CMD ${shell(startCommand ?? detected?.startCommand ?? '')}`,
    ];
    // It is a part of what it copies: with the attempt in it, a second one would share no layer with the first.
    return { added: { Dockerfile: `${dockerfile.join('\n')}\n` }, command: null };
  }

  async function streamBuild(
    files: Readable,
    tag: string,
    networkmode: string,
    what: Maker & { readonly log: Log },
    signal: AbortSignal,
  ): Promise<void> {
    const { memoryMb, milliCpus, environment } = options.build;
    const body = await engine.streams.buildImage(files, {
      t: tag,
      version: '1',
      rm: true,
      forcerm: true,
      memory: memoryMb * mib,
      memswap: memoryMb * mib,
      cpuperiod: 100_000,
      cpuquota: milliCpus * 100,
      networkmode,
      labels: ownLabels(what),
      buildargs: { ...environment },
      abortSignal: signal,
    });
    const ready: string[] = [];
    const splitter = kit.lineSplitter((line) => ready.push(line));
    const layers: string[] = [];
    let complete = false;
    try {
      for await (const message of messagesOf(body as Readable)) {
        signal.throwIfAborted();
        if (typeof message['error'] === 'string') throw await failureOf(message['error']);
        if (typeof message['stream'] === 'string') splitter.push(message['stream']);
        else if (typeof message['status'] === 'string' && message['progress'] === undefined)
          splitter.push(`${message['status']}\n`);
        if (message['aux'] !== undefined) complete = true;
        for (const line of ready.splice(0)) {
          const made = /^ ---> ([0-9a-f]{12,64})$/.exec(line)?.[1];
          if (made !== undefined) layers.push(made);
          if (line.trim() !== '') await what.log(line, 'STDOUT');
        }
      }
    } finally {
      // Which takes a while on another machine, and nobody waits for it.
      const removed = complete ? null : removeLayers(layers);
      if (!remote) await removed;
      (body as Readable).destroy();
      files.destroy();
    }
    splitter.end();
    for (const line of ready) if (line.trim() !== '') await what.log(line, 'STDOUT');
    if (!complete) throw new DriverUnavailable('it ended in the middle of the build');
  }

  /** What the steps of a build that did not come to its end have made, the last first; nothing that has a name. */
  async function removeLayers(ids: readonly string[]): Promise<void> {
    for (const id of ids.toReversed()) {
      try {
        const found = await engine.ask((docker) => docker.getImage(id).inspect());
        if (namesOf('', found.RepoTags).some((name) => name !== '')) return; // the base, or another application's
        await engine.ask((docker) => docker.getImage(id).remove());
      } catch {
        return; // used by another build, gone, or the engine is: the cache of an engine may be emptied at any time
      }
    }
  }

  /** Why a build failed: of a step's own status, of the limit of memory, or of an engine that is about to go away. */
  async function failureOf(said: string): Promise<DomainError> {
    const status = Number(/non-zero code: (\d+)$/.exec(said)?.[1]);
    const ended = status === 137 || status === 143;
    if (!Number.isNaN(status) && !ended) return new ImageBuildFailed(said.slice(0, 2000));
    if (isFull(said)) return new DiskFull('the Docker engine');
    if (await engine.leaves()) return new DriverUnavailable('it stopped in the middle of the build');
    const limit = `: a build may take ${options.build.memoryMb} MiB of memory, it may have been more.`;
    return new ImageBuildFailed(`${said.slice(0, 2000)}${ended ? limit : ''}`);
  }

  /** Networks of this host's name, the oldest first: Docker lets several have one name when they are made at once. */
  async function networks(docker: Docker): Promise<string[]> {
    const found = await docker.listNetworks({ filters: { name: [network] } });
    const age = ({ Created, Id }: Docker.NetworkInspectInfo): string => `${Created} ${Id}`;
    return found
      .filter(({ Name }) => Name === network)
      .toSorted((a, b) => (age(a) < age(b) ? -1 : 1))
      .map(({ Id }) => Id);
  }

  /** Id of the one bridge for all instances and builds of this host, over which they cannot reach each other. */
  function bridge(): Promise<string> {
    // Of many that begin at once in this process one makes it.
    finding ??= engine
      .ask(async (docker) => {
        const [there] = await networks(docker);
        if (there !== undefined) return there;
        const made = await docker
          .createNetwork({
            Name: network,
            Driver: 'bridge',
            CheckDuplicate: true,
            Options: { 'com.docker.network.bridge.enable_icc': 'false' },
            Labels: { [label.host]: hostId },
          })
          .catch((error: unknown) => {
            if (statusOf(error) !== 409) throw error; // another worker was faster
          });
        const [oldest = made?.id] = await networks(docker);
        if (oldest === undefined) throw new Error(`There is no network ${network}, though it was made.`);
        return oldest;
      })
      .finally(() => (finding = null));
    return finding;
  }

  async function inspect(instance: Opaque): Promise<Docker.ContainerInspectInfo | null> {
    const id = containerOf(instance);
    return absentAsNull(engine.ask((docker) => docker.getContainer(id).inspect()));
  }

  /** Ports that an instance that runs is published on; null: it does not run. */
  async function portsOf(instance: Opaque): Promise<readonly number[] | null> {
    if (remote) return (await runningAt(remote)).get(containerOf(instance)) ?? null;
    const found = await inspect(instance);
    if (!found?.State.Running || found.State.Restarting) return null;
    const bindings = Object.values(found.HostConfig.PortBindings ?? {}) as { HostPort?: string }[][];
    return bindings.flat().map(({ HostPort }) => Number(HostPort));
  }

  /** All that runs there, told at once for all who ask within a time. @throws DriverUnavailable */
  async function runningAt({ sharedMs }: RemoteEngine): Promise<Running> {
    if (!shared || performance.now() > shared.until) {
      const filters = labeled();
      const asked = engine
        .ask((docker) => docker.listContainers({ filters: { ...filters, status: ['running', 'paused'] } }))
        .then(
          (found): Running => new Map(found.map(({ Id, Ports }) => [Id, Ports.map(({ PublicPort }) => PublicPort)])),
        );
      const own = { asked, since: performance.now(), until: Infinity };
      shared = own;
      // The time runs from the answer on: one that is away is not asked by everybody in turn.
      const settle = (): void => void (own.until = performance.now() + sharedMs);
      asked.then(settle, settle);
    }
    // One who comes late to an engine that is away does not wait for as long again.
    const leftMs = Math.max(shared.since + toldWithinMs - performance.now(), 0);
    const told = new AbortController();
    const late = delay(leftMs, undefined, { signal: told.signal }).then(() => {
      throw new DriverUnavailable(`no answer within ${toldWithinMs} ms`);
    });
    try {
      return await Promise.race([shared.asked, late]);
    } finally {
      told.abort();
    }
  }

  /** @see https://docs.docker.com/reference/api/engine/version/v1.41/#tag/Container/operation/ContainerStats */
  async function usageOf(id: string) {
    const stats = await absentAsNull(
      engine.ask((docker) => docker.getContainer(id).stats({ stream: false, 'one-shot': true })),
    );
    // Of a container that does not run the engine tells nothing but zeros.
    if (!stats?.cpu_stats.cpu_usage.total_usage) return null;
    return toUsage(stats);
  }

  async function removeImage(name: string): Promise<void> {
    await engine.ask(async (docker) => {
      try {
        await docker.getImage(name).remove();
      } catch (error) {
        if (statusOf(error) !== 404) throw error;
      }
    });
  }

  /** The engine's own program listens for the container, of one user; without it nobody can be told. */
  async function listenerOf(port: number): Promise<number | null> {
    const found = new Set(await kit.listenersOf(port));
    return found.size === 1 ? ([...found][0] ?? null) : null;
  }
}

/** Rejects when the signal says so, and never resolves. */
const aborted = (signal: AbortSignal): Promise<never> =>
  new Promise((_, reject) => {
    if (signal.aborted) reject(signal.reason as Error);
    else signal.addEventListener('abort', () => reject(signal.reason as Error), { once: true });
  });

/** Sent as the body alone: the client would put all of it into the address as well, secrets included. */
const inBody = (what: Docker.ContainerCreateOptions) => ({ _query: {}, _body: what }) as Docker.ContainerCreateOptions;

const isPortTaken = (error: unknown): boolean =>
  /port is already allocated|address already in use/i.test(saidBy(error));

const namesOf = (id: string, tags: readonly string[] | null | undefined): readonly string[] => {
  const named = (tags ?? []).filter((tag) => tag !== '<none>:<none>');
  return named.length > 0 ? named : [id];
};

/** The one port that an image says it listens on; the usual one, which PORT tells it, for any other. */
function portOf(image: Docker.ImageInspectInfo): number {
  const exposed = Object.keys(image.Config.ExposedPorts ?? {}).filter((port) => port.endsWith('/tcp'));
  return exposed.length === 1 ? Number.parseInt(exposed[0] ?? '', 10) : usualPort;
}

function imageOf({ image, port, command }: Opaque): { image: string; port: number; command: string | null } {
  if (typeof image !== 'string' || typeof port !== 'number')
    throw new Error('This is no artifact of the Docker driver.');
  return { image, port, command: typeof command === 'string' ? command : null };
}

function containerOf({ container }: Opaque): string {
  if (typeof container !== 'string') throw new Error('This is no instance of the Docker driver.');
  return container;
}
