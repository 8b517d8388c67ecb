import { chmod, mkdir, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { afterAll, beforeAll, expect, test, vi, type TestContext } from 'vitest';
import type { Driver } from '../../../src/domains/deployments/service/driver.ts';
import { createDockerDriver } from '../../../src/integrations/docker/index.ts';
import {
  createPortFinder,
  detectProject,
  lineSplitter,
  listenersOf,
  probe,
} from '../../../src/integrations/process/index.ts';
import type { DockerEngine } from '../../support/docker-engine.ts';
import { testFolder } from '../../support/server.ts';
import { newRun, nodeImage, present, testEngine } from '../../support/test-engine.ts';
import { addresses, conformance, processListing, type Subject } from './conformance.ts';

vi.setConfig({ testTimeout: 60_000, hookTimeout: 300_000 });

let engine: DockerEngine | { readonly missing: string };
let folder: string;
const hostId = newRun().runId;
beforeAll(async () => {
  folder = await testFolder();
  engine = await testEngine();
  if (!('missing' in engine)) {
    const { docker } = engine;
    addresses.of = (id) =>
      docker('inspect', '--format', '{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}', id);
  }
});
afterAll(async () => {
  if (!('missing' in engine)) await engine.stop();
  await rm(folder, { recursive: true, force: true });
});

const create = (socketPath: string) =>
  createDockerDriver({
    hostId,
    engine: socketPath,
    nodeImage,
    limits: { memoryMb: 512, milliCpus: 1000, maxProcesses: 200 },
    build: { memoryMb: 1024, milliCpus: 2000, environment: {} },
    kit: { findPort: createPortFinder({ from: 17_000, to: 17_099 }), listenersOf, lineSplitter, detectProject, probe },
  });

async function subject(context: TestContext): Promise<Subject> {
  const { docker, socketPath } = present(engine, context);
  const driver: Driver = await create(socketPath);
  return {
    driver,
    again: () => create(socketPath),
    async checkout({ applicationId, runId, attempt }) {
      const made = path.join(folder, applicationId, `${runId}.${attempt}`);
      await mkdir(made, { recursive: true });
      await chmod(made, 0o755);
      return made;
    },
    listenOn: '0.0.0.0',
    confines: true,
    listing: async () =>
      (await Promise.all([processListing(), docker('ps', '--all', '--no-trunc', '--format', '{{json .}}'), docker('images', '--format', '{{.Repository}}:{{.Tag}}')])).join('\n'), // prettier-ignore
  };
}

conformance(subject);

const limits = { memoryMb: 128, milliCpus: 250 };
const quiet = { recordChild: () => Promise.resolve(), environment: {}, timeoutMs: 60_000 };

test('a Dockerfile of the repository is built; what .dockerignore names is not sent; its failure is told', async (context) => {
  const on = await subject(context);
  const { docker } = present(engine, context);
  const of = { ...newRun(), userSlot: 0 };
  const source = await on.checkout(of);
  const files = {
    Dockerfile: `FROM ${nodeImage}\nCOPY . /srv\nWORKDIR /srv\nEXPOSE 81\nRUN ls -a /srv\nUSER 1234\nCMD ["node", "server.js"]\n`,
    '.dockerignore': '# secrets\n*.pem\n**/*.log\n!keep.log\n',
    'key.pem': 'x',
    'a.log': 'x',
    'keep.log': 'x',
    'server.js': `require('node:http').createServer((_, response) => response.end(process.getuid() + ' ' + process.env.PORT)).listen(81, '0.0.0.0')`,
  };
  for (const [name, text] of Object.entries(files)) await writeFile(path.join(source, name), text);
  const lines: string[] = [];
  const asked = { ...of, ...quiet, source, buildCommand: null, startCommand: null, log: (line: string) => void lines.push(line), signal: context.signal }; // prettier-ignore
  const { artifact, imageId } = await on.driver.build(asked);
  expect(lines).toEqual(expect.arrayContaining(['keep.log', 'server.js']));
  expect(lines).not.toContain('key.pem');
  expect(lines).not.toContain('a.log');
  expect(imageId).toMatch(/^sha256:[0-9a-f]{64}$/);
  const started = await on.driver.start({ ...of, artifact, environment: {}, limits });
  context.onTestFinished(() => on.driver.stop(started.instance, 0));
  await vi.waitFor(
    async () => expect(await (await fetch(`http://127.0.0.1:${started.port}`)).text()).toBe('1234 81'),
    10_000,
  );
  const [inspected] = JSON.parse(await docker('inspect', String(started.instance['container']))) as [
    { Image: string; HostConfig: Record<string, unknown>; NetworkSettings: { Ports: unknown } },
  ];
  expect(inspected.Image).toBe(imageId);
  expect(inspected.HostConfig).toMatchObject({
    Memory: 128 * 2 ** 20,
    MemorySwap: 128 * 2 ** 20,
    NanoCpus: 250e6,
    PidsLimit: 200,
    CapDrop: ['ALL'],
    SecurityOpt: ['no-new-privileges'],
    RestartPolicy: { Name: 'no' },
    Privileged: false,
    Binds: null,
  });
  expect(inspected.NetworkSettings.Ports).toEqual({
    '81/tcp': [{ HostIp: '127.0.0.1', HostPort: String(started.port) }],
  });

  await writeFile(path.join(source, 'Dockerfile'), `FROM ${nodeImage}\nCOPY ../../outside /x\n`);
  await expect(on.driver.build({ ...asked, attempt: 2 })).rejects.toMatchObject({ code: 'BUILD_FAILED' });
  await writeFile(path.join(source, 'Dockerfile'), `FROM\nNONSENSE`);
  await expect(on.driver.build({ ...asked, attempt: 3 })).rejects.toMatchObject({ code: 'BUILD_FAILED' });
});
