import { randomBytes, randomUUID } from 'node:crypto';
import { anonymous, type Actor } from '#kernel/auth/actor.ts';
import { instanceWorkspaceId } from '#kernel/auth/instance.ts';
import type { App } from '#kernel/app.ts';
import { isTerminal } from '#kernel/runs/model.ts';
import { Sealing } from '#kernel/sealing/sealing.ts';
import { Instance } from '../../../src/domains/instance/index.ts';
import { until } from '../../support/embedded.ts';

/** When a rotation in a test is given up, milliseconds. */
export const livenessMs = 60_000;

/** A new encryption key, as it is configured. */
export const key = (kid: string): string => `${kid}:${randomBytes(32).toString('base64')}`;

/** The environment of a server with these keys, the current one first. */
export const withKeys = (role: 'api' | 'worker', keys: readonly string[]): Record<string, string> => ({
  SWITCHYARD_ROLES: role,
  SWITCHYARD_PROCESS_DRIVER: 'false',
  SWITCHYARD_RUN_LEASE_S: '4',
  SWITCHYARD_ENCRYPTION_KEYS: keys.join(','),
});

/** Somebody who operates the server, as the services see them. */
export const operator: Actor = {
  ...anonymous,
  kind: 'SESSION',
  userId: randomUUID(),
  roles: new Map([[instanceWorkspaceId, 'OWNER']]),
};

/** Mails, as values to rotate: nothing is sent of them. */
export async function sealed(app: App, many: number): Promise<string[]> {
  await app.db.mail.deleteMany();
  const sealing = app.use(Sealing);
  const ids = Array.from({ length: many }, () => randomUUID());
  const data = ids.map(async (id, index) => ({
    id,
    recipient: await sealing.seal(`person-${index}@example.com`, `mail.recipient:${id}`),
    content: await sealing.seal(JSON.stringify({ subject: 'Hello', text: `secret ${index}` }), `mail.content:${id}`),
  }));
  await app.db.mail.createMany({ data: await Promise.all(data) });
  return ids;
}

export const rotate = async (app: App): Promise<string> =>
  (await app.use(Instance).rotateEncryptionKeys(operator, {})).id;
export const rotation = (app: App, id: string) =>
  app.db.run.findUniqueOrThrow({ where: { id }, include: { keyRotation: true } });
/** The same, once it is over. */
export async function rotated(app: App, id: string) {
  await until('the rotation is over', async () => isTerminal((await rotation(app, id)).status), livenessMs);
  return rotation(app, id);
}
/** Ids of the keys that seal the mails. */
export async function kids(app: App): Promise<string[]> {
  const rows = await app.db.mail.findMany({ select: { recipient: true, content: true } });
  const texts = rows.flatMap(({ recipient, content }) => (content === null ? [recipient] : [recipient, content]));
  return [...new Set(texts.map((text) => /^v1\.([\w-]+)\./.exec(text)?.[1] ?? 'none'))].toSorted();
}
