import { rm } from 'node:fs/promises';
import { afterAll, beforeAll, expect, test, vi, type TestContext } from 'vitest';
import type { DockerEngine } from '../../support/docker-engine.ts';
import { until } from '../../support/embedded.ts';
import { startTestServer, testFolder, type TestServer } from '../../support/server.ts';
import { nodeImage, present, testEngine } from '../../support/test-engine.ts';
import { livenessMs, raw, serving, team } from './harness.ts';
import { fresh, scenarios, type Ground } from './scenarios.ts';

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

test('where an engine answers it is the default; old images go, those that can be restored stay', async (context) => {
  const place = await ground(context);
  const { docker } = present(engine, context);
  const on = await team(place.server.url);
  const { id, source } = await fresh(on, place, 'default', { 'server.js': serving('0') }, { driver: null });
  const { db } = place.server.running.app;
  for (let version = 0; version < 8; version += 1) {
    await source.commit({ 'server.js': serving(String(version)) });
    expect((await on.deploy(id)).phase).toBe('DEPLOYED');
  }
  const applicationId = raw('Application', id);
  expect(await db.application.findUniqueOrThrow({ where: { id: applicationId } })).toMatchObject({ driver: 'DOCKER' });
  await until('two are pruned', async () => (await db.release.count({ where: { applicationId, prunedAt: { not: null } } })) === 2, livenessMs); // prettier-ignore
  const kept = await db.release.findMany({ where: { applicationId, prunedAt: null } });
  const images = async () => (await docker('images', '--no-trunc', '--format', '{{.Repository}} {{.ID}}')).split('\n').filter((line) => line.includes(applicationId)).map((line) => line.split(' ')[1]); // prettier-ignore
  await until('their images are gone', async () => (await images()).length === 6, livenessMs);
  expect((await images()).toSorted()).toEqual(kept.map(({ imageId }) => imageId).toSorted());
});
