import { chmod, mkdir, readdir, rm } from 'node:fs/promises';
import path from 'node:path';
import { afterAll, beforeAll, expect, test, vi, type TestContext } from 'vitest';
import { createLogger } from '#kernel/log.ts';
import type { Driver } from '../../../src/domains/deployments/service/driver.ts';
import { createEc2Driver } from '../../../src/domains/deployments/service/drivers.ts';
import { connectEc2, type Ec2 } from '../../../src/integrations/ec2/index.ts';
import type { DockerEngine } from '../../support/docker-engine.ts';
import { until } from '../../support/embedded.ts';
import { credentials, startS3rver, type TestS3 } from '../../support/s3.ts';
import { startTestServer, testFolder } from '../../support/server.ts';
import { startFakeSsm, type FakeSsm } from '../../support/ssm.ts';
import { livenessMs, plain, raw, repository, serving, team } from '../../domains/deployments/harness.ts';
import { loop } from '../../domains/deployments/scenarios.ts';
import { newRun, nodeImage, present, testEngine } from '../../support/test-engine.ts';
import { addresses, conformance, processListing, type Subject } from './conformance.ts';

// The real driver with the real clients of the SDK, and real containers. What is not real: SSM is a stand-in that executes
// the scripts on this machine, and S3 is S3rver. AWS itself was never asked.
vi.setConfig({ testTimeout: 60_000, hookTimeout: 300_000 });

let engine: DockerEngine | { readonly missing: string };
let folder: string;
let ssm: FakeSsm;
let s3: TestS3;
const opened: Ec2[] = [];
const hostId = newRun().runId;
beforeAll(async () => {
  folder = await testFolder();
  ssm = await startFakeSsm();
  s3 = await startS3rver('transfer');
  engine = await testEngine();
  if (!('missing' in engine)) {
    const { docker } = engine;
    addresses.of = (id) =>
      docker('inspect', '--format', '{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}', id);
  }
});
afterAll(async () => {
  for (const one of opened) await one.close();
  if (!('missing' in engine)) await engine.stop();
  await s3.stop();
  await ssm.close();
  await rm(folder, { recursive: true, force: true });
});

async function create(socketPath: string): Promise<Driver> {
  const instance = await connectEc2({
    instanceId: ssm.instanceId,
    region: 'eu-central-1',
    bucket: 'transfer',
    address: null,
    socketPath,
    ssmEndpoint: ssm.url,
    s3Endpoint: s3.endpoint,
    credentials,
    hostId,
    folder: path.join(folder, 'ec2'),
    ports: { from: 17_000, to: 17_099 },
    waits: { commandMs: 25, everyMs: 50, quietMs: 200, answerMs: 300 },
    log: createLogger('silent'),
  });
  opened.push(instance);
  return createEc2Driver(
    {
      hostId,
      nodeImage,
      limits: { memoryMb: 512, milliCpus: 1000, maxProcesses: 200 },
      build: { memoryMb: 1024, milliCpus: 2000, environment: {} },
    },
    instance,
    { sharedMs: 20, lastWordsMs: 3_000 },
  );
}

let driver: Promise<Driver> | null = null;

async function subject(context: TestContext): Promise<Subject> {
  const { docker, socketPath } = present(engine, context);
  return {
    driver: await (driver ??= create(socketPath)),
    again: () => create(socketPath),
    async checkout({ applicationId, runId, attempt }) {
      const made = path.join(folder, applicationId, `${runId}.${attempt}`);
      await mkdir(made, { recursive: true });
      await chmod(made, 0o755);
      return made;
    },
    listenOn: '0.0.0.0',
    confines: true,
    // The history of commands as well: it is what an account keeps of them.
    listing: async () =>
      (await Promise.all([processListing(), docker('ps', '--all', '--no-trunc', '--format', '{{json .}}'), docker('images', '--format', '{{.Repository}}:{{.Tag}}'), Promise.resolve(JSON.stringify(ssm.history))])).join('\n'), // prettier-ignore
  };
}

conformance(subject);

test('a whole server deploys to it, switches without a failed request, and starts again what died', async (context) => {
  const { docker, socketPath } = present(engine, context);
  vi.stubEnv('AWS_ACCESS_KEY_ID', credentials.accessKeyId);
  vi.stubEnv('AWS_SECRET_ACCESS_KEY', credentials.secretAccessKey);
  const server = await startTestServer({
    SWITCHYARD_PROCESS_DRIVER: 'false',
    SWITCHYARD_EC2_INSTANCE_ID: ssm.instanceId,
    SWITCHYARD_EC2_REGION: 'eu-central-1',
    SWITCHYARD_EC2_BUCKET: 'transfer',
    // Not where the proxy reaches the instances of this machine.
    SWITCHYARD_EC2_ADDRESS: '127.0.0.2',
    SWITCHYARD_EC2_DOCKER_HOST: `unix://${socketPath}`,
    SWITCHYARD_EC2_SSM_ENDPOINT: ssm.url,
    SWITCHYARD_EC2_S3_ENDPOINT: s3.endpoint,
    SWITCHYARD_DOCKER_NODE_IMAGE: nodeImage,
  });
  try {
    const on = await team(server.url);
    const source = await repository(folder, 'to-ec2');
    await source.commit({ ...plain, 'server.js': serving('one') });
    const id = await on.application({
      name: 'to-ec2',
      repositoryUrl: source.url,
      driver: 'EC2',
      environment: { TOKEN: 'geheim-auf-reisen' },
    });
    const one = await on.deploy(id);
    expect(one).toMatchObject({ phase: 'DEPLOYED', status: 'SUCCEEDED' });
    expect(one.logs.nodes.map(({ text }) => text)).toContain('listening for one');
    const serves = () =>
      server.running.app.db.release.findFirstOrThrow({ where: { activeOf: { id: raw('Application', id) } } });
    const first = await serves();
    expect(first).toMatchObject({ driver: 'EC2', instanceHost: '127.0.0.2', instanceUid: null });
    const stop = await loop(`${await on.address(id)}/`);
    await source.commit({ 'server.js': serving('two') });
    expect((await on.deploy(id)).phase).toBe('DEPLOYED');
    await until('the new one answers', async () => (await on.answer(id)) === 'two', livenessMs);
    const { answers, failures, count } = await stop();
    console.log(`MEASURED EC2: ${count} requests during a switch, ${failures.length} failed`);
    expect({ failures, answers: [...answers].toSorted() }).toEqual({ failures: [], answers: ['one', 'two'] });
    const containerOf = (release: { readonly instance: unknown }) => (release.instance as { container: string }).container; // prettier-ignore
    const died = containerOf(await serves());
    await docker('kill', died);
    await until('it is started again', async () => (await on.answer(id).catch(() => '')) === 'two', livenessMs);
    expect(containerOf(await serves())).not.toBe(died);
    expect((await on.stopApplication(id)).__typename).toBe('StopApplicationSuccess');
    const left = () => docker('ps', '--all', '--quiet', '--filter', `label=switchyard.application=${raw('Application', id)}`); // prettier-ignore
    await until('nothing of it runs', async () => (await left()) === '', livenessMs);
  } finally {
    await server.stop();
    vi.unstubAllEnvs();
  }
  expect(JSON.stringify(ssm.history)).not.toContain('geheim-auf-reisen');
}, 240_000);

test('nothing is left on the instance or in the bucket but what runs', async (context) => {
  present(engine, context);
  for (const one of opened.splice(0)) await one.close();
  const asked = JSON.stringify(ssm.history);
  const folders = (await readdir('/var/tmp')).filter((name) => name.startsWith('switchyard.') && asked.includes(name));
  const full = await Promise.all(folders.map(async (name) => (await readdir(path.join('/var/tmp', name))).length));
  expect(full.filter((count) => count > 0)).toEqual([]);
  const objects = await readdir(s3.folder, { recursive: true, withFileTypes: true });
  expect(objects.filter((one) => one.isFile()).map(({ name }) => name)).toEqual([]);
});
