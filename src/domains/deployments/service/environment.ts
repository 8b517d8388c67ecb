import { z } from 'zod';
import { service, type App } from '#kernel/app.ts';
import type { Actor } from '#kernel/auth/actor.ts';
import { authorizeRow } from '#kernel/auth/policy.ts';
import type { Appended, Transaction } from '#kernel/db/transact.ts';
import { NotFound, ValidationError } from '#kernel/errors.ts';
import { isId, newId } from '#kernel/ids.ts';
import { parse } from '#kernel/input.ts';
import { defineSealedColumn } from '#kernel/sealing/columns.ts';
import { Sealing } from '#kernel/sealing/sealing.ts';
import { validateEnvironment } from '../../../integrations/process/index.ts';
import { EnvironmentConflict } from '../errors.ts';
import { environmentChanged } from '../events.ts';
import { maxEnvironment, maxVariables, VariableName, VariableValue } from '../model.ts';
import { can } from '../policy.ts';
import { lockApplication, refuse, type Written } from './shared.ts';

const valueColumn = defineSealedColumn({ table: 'environment_variable', column: 'value' });

const Expected = { applicationId: z.string(), expectedVersion: z.int().nullish() };

const NewVariables = z.object({
  ...Expected,
  variables: z
    .array(z.object({ name: VariableName, value: VariableValue, sensitive: z.boolean().nullish() }))
    .min(1, 'must name a variable')
    .max(maxVariables),
});

const NamesToUnset = z.object({ ...Expected, names: z.array(VariableName).min(1).max(maxVariables) });

/** What is to become of a variable; null: it goes. */
export type Change = { readonly value: string; readonly sensitive: boolean } | null;

/** A variable as an execution gets it. */
export interface Variable {
  readonly name: string;
  readonly value: string;
  readonly sensitive: boolean;
}

/** Rows that a version of an environment has. */
export const inVersion = (applicationId: string, version: number) => ({
  applicationId,
  sinceVersion: { lte: version },
  OR: [{ untilVersion: null }, { untilVersion: { gt: version } }],
});

/**
 * The environment variables of applications. The only writer of environment_variable and environment_version; their
 * values leave the database for an execution, and where nobody called them sensitive.
 */
export const Environments = service('environments', (app) => {
  const write = async (
    actor: Actor,
    verb: 'setEnvironmentVariables' | 'unsetEnvironmentVariables',
    input: { readonly applicationId: string; readonly expectedVersion?: number | null | undefined },
    changes: ReadonlyMap<string, Change>,
  ): Promise<Written & { readonly version: number }> => {
    const id = input.applicationId;
    if (!isId(id)) throw new NotFound('Application', id);
    return app.transact(actor, async (tx) => {
      const application = await lockApplication(tx, id);
      authorizeRow(actor, can[verb], application, 'Application', id);
      if ((await tx.db.preview.count({ where: { applicationId: id } })) > 0)
        throw new ValidationError([
          { path: 'applicationId', message: 'is a preview, which `setPreviewPolicy` is for' },
        ]);
      const current = application.environmentVersion;
      if (input.expectedVersion != null && input.expectedVersion !== current) throw new EnvironmentConflict(current);
      const { version, event } = await self.change(tx, application, changes, 'variables');
      return { id, workspaceId: application.workspaceId, version, event };
    });
  };

  const self = {
    /**
     * Sets several variables at once: all of them, or none.
     * @throws {ValidationError} {NotFound} {Forbidden} {EnvironmentConflict}
     */
    set(actor: Actor, raw: unknown): Promise<Written & { readonly version: number }> {
      const input = parse(NewVariables, raw);
      const names = input.variables.map(({ name }) => name);
      refuse([['variables', names.length === new Set(names).size ? null : 'must name each variable once']]);
      return write(
        actor,
        'setEnvironmentVariables',
        input,
        new Map(input.variables.map(({ name, value, sensitive }) => [name, { value, sensitive: sensitive ?? true }])),
      );
    },

    /**
     * Removes variables; one that is not there is removed already.
     * @throws {ValidationError} {NotFound} {Forbidden} {EnvironmentConflict}
     */
    unset(actor: Actor, raw: unknown): Promise<Written & { readonly version: number }> {
      const input = parse(NamesToUnset, raw);
      return write(actor, 'unsetEnvironmentVariables', input, new Map(input.names.map((name) => [name, null])));
    },

    /**
     * Makes the next version of an application's environment. The caller holds the lock of its row, and has authorized.
     * Nothing is made when there is nothing to change.
     * @param path of the input that the values came by, for those who are told what is wrong with them
     * @throws {ValidationError}
     */
    async change(
      tx: Transaction,
      application: { readonly id: string; readonly workspaceId: string; readonly environmentVersion: number },
      changes: ReadonlyMap<string, Change>,
      path: string,
    ): Promise<{ version: number; event: Appended | null }> {
      const { id: applicationId, environmentVersion: current } = application;
      const there = await tx.db.environmentVariable.findMany({ where: { applicationId, untilVersion: null } });
      const set = [...changes].flatMap(([name, change]) => (change ? [{ name, ...change }] : []));
      const ended = there.filter(({ name }) => changes.has(name));
      if (set.length === 0 && ended.length === 0) return { version: current, event: null };
      const stay = there.filter(({ name }) => !changes.has(name));
      // Sealed values tell how long they are, near enough for a limit of this kind.
      const size =
        stay.reduce((sum, { name, value }) => sum + name.length + (value.length * 3) / 4, 0) +
        set.reduce((sum, { name, value }) => sum + name.length + value.length, 0);
      refuse([
        [path, stay.length + set.length > maxVariables ? `must be at most ${maxVariables} in all` : null],
        [path, size > maxEnvironment ? `must have at most ${maxEnvironment} characters in all` : null],
        [path, validateEnvironment(Object.fromEntries(set.map(({ name, value }) => [name, value])))],
      ]);
      const version = current + 1;
      await tx.db.environmentVersion.create({ data: { applicationId, version, actorId: tx.actor.userId } });
      await tx.db.environmentVariable.updateMany({
        where: { id: { in: ended.map(({ id }) => id) } },
        data: { untilVersion: version },
      });
      const sealing = app.use(Sealing);
      await tx.db.environmentVariable.createMany({
        data: await Promise.all(
          set.map(async ({ name, value, sensitive }) => {
            const id = newId();
            return {
              id,
              applicationId,
              name,
              value: await sealing.seal(value, valueColumn.context(id)),
              sensitive,
              actorId: tx.actor.userId,
              sinceVersion: version,
            };
          }),
        ),
      });
      await tx.db.application.update({ where: { id: applicationId }, data: { environmentVersion: version } });
      await forgetOld(tx, applicationId);
      const event = tx.append({
        type: environmentChanged,
        workspaceId: application.workspaceId,
        subjectId: applicationId,
        data: { version },
      });
      return { version, event };
    },

    /** The variables of a version, for what builds and runs the application, and for nobody else. */
    async open(applicationId: string, version: number): Promise<readonly Variable[]> {
      if (version === 0) return [];
      const rows = await app.db.environmentVariable.findMany({
        where: inVersion(applicationId, version),
        orderBy: { name: 'asc' },
      });
      return Promise.all(rows.map(async (row) => ({ ...row, value: await openValue(app, row) })));
    },

    /** A value that is not sensitive; null: it is. The caller has looked at the rights. */
    async read(row: { readonly id: string; readonly value: string; readonly sensitive: boolean }) {
      return row.sensitive ? null : openValue(app, row);
    },
  };
  return self;
});

const openValue = (app: App, { id, value }: { readonly id: string; readonly value: string }): Promise<string> =>
  app.use(Sealing).openText(value, valueColumn.context(id));

/** As an environment of a process. */
export const environmentOf = (variables: readonly Variable[]): Readonly<Record<string, string>> =>
  Object.fromEntries(variables.map(({ name, value }) => [name, value]));

/**
 * Values that are not for the log: those that are sensitive, those whose name says that they are, and the passwords in
 * URLs.
 */
export function secretsOf(variables: readonly Variable[]): string[] {
  return variables.flatMap(({ name, value, sensitive }) => {
    const password = URL.parse(value)?.password;
    return [
      ...(sensitive || /SECRET|TOKEN|PASS|CREDENTIAL|KEY|AUTH/i.test(name) ? [value] : []),
      ...(password ? [password, decoded(password)] : []),
    ];
  });
}

/** The text itself where it is no percent-encoding. */
function decoded(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

/** Versions stay as long as a deployment or a release names them; what only others had goes with them. */
async function forgetOld(tx: Transaction, applicationId: string): Promise<void> {
  await tx.db.$executeRaw`
    delete from environment_version v using application a
    where v.application_id = ${applicationId}::uuid and a.id = v.application_id and v.version <> a.environment_version
      and not exists (select 1 from deployment d where d.application_id = v.application_id and d.environment_version = v.version)
      and not exists (select 1 from release r where r.application_id = v.application_id and r.environment_version = v.version)`;
  await tx.db.$executeRaw`
    delete from environment_variable e
    where e.application_id = ${applicationId}::uuid and e.until_version is not null
      and not exists (select 1 from environment_version v where v.application_id = e.application_id
        and v.version >= e.since_version and v.version < e.until_version)`;
}
