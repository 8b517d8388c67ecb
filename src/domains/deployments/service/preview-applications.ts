import type { Application, Preview } from '#prisma';
import type { App } from '#kernel/app.ts';
import type { Transaction } from '#kernel/db/transact.ts';
import { Conflict } from '#kernel/errors.ts';
import { newId } from '#kernel/ids.ts';
import { defineSealedColumn } from '#kernel/sealing/columns.ts';
import { Sealing } from '#kernel/sealing/sealing.ts';
import { Environments, type Change } from './environment.ts';
import { Quotas } from './quotas.ts';

export const previewValue = defineSealedColumn({ table: 'preview_variable', column: 'value' });

/** What a preview has of the application that it is of. Its environment is none of it. */
const settingsOf = (of: Application) => ({
  repositoryUrl: of.repositoryUrl,
  buildCommand: of.buildCommand,
  startCommand: of.startCommand,
  healthCheckPath: of.healthCheckPath,
  healthTimeoutS: of.healthTimeoutS,
  memoryMb: of.memoryMb,
  milliCpus: of.milliCpus,
  crashLoopRestarts: of.crashLoopRestarts,
  crashLoopWindowS: of.crashLoopWindowS,
  blockAtSeverity: of.blockAtSeverity,
  requireCompleteScan: of.requireCompleteScan,
});

/**
 * The application that runs a preview, made or brought up to date for its newest commit. Nothing but previews deploys
 * it: its branch is that commit.
 * @throws {QuotaExceeded} {Conflict}
 */
export async function runningPreview(
  app: App,
  tx: Transaction,
  {
    of,
    preview,
    present,
  }: { readonly of: Application; readonly preview: Preview; readonly present: Application | null },
): Promise<Application> {
  const data = { ...settingsOf(of), branch: preview.headSha, autoDeploy: false };
  if (present) return tx.db.application.update({ where: { id: present.id }, data });
  const { workspaceId } = of;
  await app.use(Quotas).requireRoom(tx, workspaceId);
  const workspace = await tx.db.workspace.findUniqueOrThrow({ where: { id: workspaceId } });
  if (workspace.deletedAt) throw new Conflict('The workspace is being deleted.');
  const id = newId();
  const plain = `${of.name.slice(0, 45).replace(/-+$/, '')}-pr-${preview.number}`;
  const taken = (await tx.db.application.count({ where: { workspaceId, name: plain } })) > 0;
  return tx.db.application.create({
    data: {
      ...data,
      id,
      workspaceId,
      name: taken ? `${plain.slice(0, 56)}-${id.slice(-6)}` : plain,
      driver: of.driver,
      retainedReleases: 1,
      // Fingerprints are the same ones, so that what was suppressed is so here.
      scanKey: of.scanKey,
    },
  });
}

/** Gives a preview the variables of previews, of which forks have none unless that was said; never others. */
export async function giveVariables(app: App, tx: Transaction, to: Application, fromId: string | null): Promise<void> {
  const environments = app.use(Environments);
  const rows = fromId === null ? [] : await tx.db.previewVariable.findMany({ where: { applicationId: fromId } });
  const present = new Map(
    (await environments.open(to.id, to.environmentVersion)).map(({ name, value }) => [name, value]),
  );
  const changes = new Map<string, Change>([...present.keys()].map((name) => [name, null]));
  for (const { id, name, value: sealed } of rows) {
    const value = await app.use(Sealing).openText(sealed, previewValue.context(id));
    if (present.get(name) === value) changes.delete(name);
    else changes.set(name, { value, sensitive: true });
  }
  await environments.change(tx, to, changes, 'environment');
}

/** What somebody lives with in an application, they live with in its previews. */
export async function giveSuppressions(tx: Transaction, toId: string, fromId: string): Promise<void> {
  // Nor longer than there.
  await tx.db.$executeRaw`
    update known_finding k set suppressed_at = null, suppressed_by_id = null, reason = null, expires_at = null
    where k.application_id = ${toId}::uuid and k.suppressed_at is not null and not exists (select 1 from known_finding f
      where f.application_id = ${fromId}::uuid and f.fingerprint = k.fingerprint and f.suppressed_at is not null)`;
  await tx.db.$executeRaw`
    insert into known_finding (id, application_id, fingerprint, first_seen_at, suppressed_at, suppressed_by_id, reason, expires_at)
    select gen_random_uuid(), ${toId}::uuid, fingerprint, first_seen_at, suppressed_at, suppressed_by_id, reason, expires_at
    from known_finding where application_id = ${fromId}::uuid and suppressed_at is not null
    on conflict (application_id, fingerprint) do update set suppressed_at = excluded.suppressed_at,
      suppressed_by_id = excluded.suppressed_by_id, reason = excluded.reason, expires_at = excluded.expires_at`;
}
