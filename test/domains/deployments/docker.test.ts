import { rm } from 'node:fs/promises';
import { afterAll, beforeAll, expect, test, vi, type TestContext } from 'vitest';
import type { DockerEngine } from '../../support/docker-engine.ts';
import { startTestServer, testFolder, type TestServer } from '../../support/server.ts';
import { nodeImage, present, testEngine } from '../../support/test-engine.ts';
import { repository, team } from './harness.ts';
import { scenarios, type Ground } from './scenarios.ts';

vi.setConfig({ testTimeout: 120_000, hookTimeout: 300_000 });

let engine: DockerEngine | { readonly missing: string };
let server: TestServer | null = null;
let folder: string;
let settings: Readonly<Record<string, string>>;
beforeAll(async () => {
  folder = await testFolder();
  engine = await testEngine();
  if ('missing' in engine) return;
  settings = {
    SWITCHYARD_DOCKER: 'on',
    DOCKER_HOST: `unix://${engine.socketPath}`,
    SWITCHYARD_DOCKER_NODE_IMAGE: nodeImage,
  };
  server = await startTestServer(settings);
});
afterAll(async () => {
  await server?.stop();
  if (!('missing' in engine)) await engine.stop();
  await rm(folder, { recursive: true, force: true });
});

async function ground(context: TestContext): Promise<Ground> {
  present(engine, context);
  return { driver: 'DOCKER', server: server as TestServer, folder, settings };
}

scenarios(ground, 'few');

test('where an engine answers, it is the default, and the Dockerfile of a repository is what is built', async (context) => {
  const place = await ground(context);
  const on = await team(place.server.url);
  const source = await repository(folder, 'hello-docker', 'hello-docker');
  await source.commit({});
  const id = await on.application({ name: 'hello-docker', repositoryUrl: source.url, memoryMb: 200 });
  expect((await on.deploy(id)).phase).toBe('DEPLOYED');
  expect(await on.answer(id)).toBe('Hello from a container\n');
  const row = await place.server.running.app.db.application.findFirstOrThrow({ where: { name: 'hello-docker' } });
  expect(row).toMatchObject({ driver: 'DOCKER', memoryMb: 200 });
});
