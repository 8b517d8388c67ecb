import DataLoader from 'dataloader';
import type { EnvironmentVariable, EnvironmentVersion } from '#prisma';
import { may } from '#kernel/auth/policy.ts';
import { loadUser, UserRef } from '#kernel/auth/schema.ts';
import type { Appended } from '#kernel/db/transact.ts';
import { builder } from '#kernel/graphql/builder.ts';
import type { Context } from '#kernel/graphql/context.ts';
import { rowId } from '#kernel/graphql/global-id.ts';
import { ErrorInterface, errorType, eventCursor, failing, guardedPart, ofCredential } from '#kernel/graphql/kit.ts';
import { SecretScalar } from '#kernel/graphql/secret.ts';
import { EnvironmentConflict } from '../errors.ts';
import { can } from '../policy.ts';
import { ApplicationRef } from '../schema.ts';
import { Environments, inVersion } from '../service/index.ts';

builder.addScalarType('Secret', SecretScalar);

errorType(EnvironmentConflict, {
  name: 'EnvironmentConflict',
  description: 'The environment was changed since you looked. Nothing was done.',
  interfaces: [ErrorInterface],
  fields: (t) => ({
    currentVersion: t.exposeInt('currentVersion', { description: 'The version that it has now.' }),
  }),
});

const VariableRef = builder.prismaObject('EnvironmentVariable', {
  description: 'An environment variable of an application.',
  authScopes: guardedPart('EnvironmentVariable').authScopes,
  fields: (t) => ({
    name: t.exposeString('name', { description: 'Its name.' }),
    sensitive: t.exposeBoolean('sensitive', {
      description: 'Whether its value is never told, and masked in output, whatever its name is.',
    }),
    value: t.string({
      nullable: true,
      description: 'Its value; null when it is sensitive.',
      resolve: (row, _, { app }) => app.use(Environments).read(row),
    }),
    version: t.exposeInt('sinceVersion', { description: 'The version of the environment that it was set with.' }),
    setAt: t.expose('createdAt', { type: 'DateTime', description: 'When it was set.' }),
    setBy: t.field({
      type: UserRef,
      nullable: true,
      description: 'Who set it; null: somebody you share no workspace with any more.',
      compiled: { one: 'User', id: 'actorId' },
      resolve: (row, _, context) => loadUser(context, row.actorId),
    }),
  }),
});

const VersionRef = builder.prismaObject('EnvironmentVersion', {
  description: "A version of an application's environment variables. It is kept as long as something ran with it.",
  authScopes: guardedPart('EnvironmentVersion').authScopes,
  fields: (t) => ({
    version: t.exposeInt('version', { description: '1, 2, 3, … within the application.' }),
    createdAt: t.expose('createdAt', { type: 'DateTime', description: 'When it was made.' }),
    createdBy: t.field({
      type: UserRef,
      nullable: true,
      description: 'Who made it; null: somebody you share no workspace with any more.',
      compiled: { one: 'User', id: 'actorId' },
      resolve: (row, _, context) => loadUser(context, row.actorId),
    }),
  }),
});

interface EnvironmentOf {
  readonly applicationId: string;
  readonly version: number;
}

/** Versions that are told at once. */
const maxVersions = 100;

interface Loaders {
  readonly variables: DataLoader<EnvironmentOf, EnvironmentVariable[]>;
  readonly versions: DataLoader<string, EnvironmentVersion[]>;
}

const ofContext = new WeakMap<Context, Loaders>();

/** Of many applications in one statement each. Nothing is remembered: a later mutation of the operation changes it. */
function loaders(context: Context): Loaders {
  let made = ofContext.get(context);
  if (!made) {
    const { db } = context.app;
    made = {
      variables: new DataLoader<EnvironmentOf, EnvironmentVariable[]>(
        async (keys) => {
          const rows = await db.environmentVariable.findMany({
            where: { OR: keys.map(({ applicationId, version }) => inVersion(applicationId, version)) },
            orderBy: { name: 'asc' },
          });
          const byApplication = Map.groupBy(rows, (row) => row.applicationId);
          return keys.map(({ applicationId, version }) =>
            (byApplication.get(applicationId) ?? []).filter(
              (row) => row.sinceVersion <= version && (row.untilVersion === null || row.untilVersion > version),
            ),
          );
        },
        { cache: false },
      ),
      versions: new DataLoader<string, EnvironmentVersion[]>(
        async (ids) => {
          const rows = await db.application.findMany({
            where: { id: { in: [...ids] } },
            select: { id: true, environmentVersions: { orderBy: { version: 'desc' }, take: maxVersions } },
          });
          const byId = new Map(rows.map((row) => [row.id, row.environmentVersions]));
          return ids.map((id) => byId.get(id) ?? []);
        },
        { cache: false },
      ),
    };
    ofContext.set(context, made);
  }
  return made;
}

const EnvironmentRef = builder.objectRef<EnvironmentOf>('Environment').implement({
  description: "An application's environment variables, as build and instances get them.",
  fields: (t) => ({
    version: t.exposeInt('version', {
      description: 'Raised by every change: `expectedVersion` of the next one. 0: there never was a variable.',
    }),
    variables: t.field({
      type: [VariableRef],
      description: 'The variables, by name.',
      resolve: (of, _, context) => loaders(context).variables.load(of),
    }),
    versions: t.field({
      type: [VersionRef],
      description: `The versions that are kept, newest first, at most ${maxVersions}.`,
      resolve: ({ applicationId }, _, context) => loaders(context).versions.load(applicationId),
    }),
  }),
});

builder.prismaObjectField(ApplicationRef, 'environment', (t) =>
  t.field({
    ...ofCredential,
    type: EnvironmentRef,
    nullable: true,
    description: 'Its environment variables. Null for viewers: they are for those who may set them.',
    select: { id: true, workspaceId: true, environmentVersion: true },
    args: {
      version: t.arg.int({ required: false, description: 'A version of before; null where it is not kept.' }),
    },
    resolve: async ({ id, workspaceId, environmentVersion }, { version }, { app, actor }) => {
      if (!may(actor, can.setEnvironmentVariables, workspaceId)) return null;
      if (version == null || version === environmentVersion) return { applicationId: id, version: environmentVersion };
      // What no row can have is asked for by nobody who read it here.
      if (version < 1 || version > environmentVersion) return null;
      const kept = await app.db.environmentVersion.count({ where: { applicationId: id, version } });
      return kept > 0 ? { applicationId: id, version } : null;
    },
  }),
);

interface Changed {
  readonly id: string;
  readonly workspaceId: string;
  readonly version: number;
  readonly event: Appended | null;
}

const success = (name: string, description: string) =>
  builder.objectRef<Changed>(name).implement({
    description,
    fields: (t) => ({
      application: t.prismaField({
        type: ApplicationRef,
        description: 'The application.',
        resolve: (query, { id }, _, { app }) => app.db.application.findUniqueOrThrow({ ...query, where: { id } }),
      }),
      version: t.exposeInt('version', { description: 'The version that this made, or that held already.' }),
      eventCursor: t.string(eventCursor),
    }),
  });

const VariableInput = builder.inputType('EnvironmentVariableInput', {
  description: 'A value for an environment variable.',
  fields: (t) => ({
    name: t.string({ description: 'Letters, digits and underscores, no digit first; at most 200 characters.' }),
    value: t.field({ type: 'Secret', description: 'Text of at most 32,768 characters, without NUL.' }),
    sensitive: t.boolean({
      required: false,
      description: 'Whether it may never be read back; default true. What is not sensitive is told to members.',
    }),
  }),
});

const applicationId = { description: 'Global id of the application.' } as const;
const expectedVersion = {
  required: false,
  description: 'The version that you saw: the change is refused when there is another one by now.',
} as const;

builder.mutationFields((t) => ({
  setEnvironmentVariables: t.fieldWithInput({
    access: can.setEnvironmentVariables,
    type: success('SetEnvironmentVariablesSuccess', 'The variables are set, for deployments from now on.'),
    errors: failing(EnvironmentConflict),
    description:
      'Sets environment variables of an application, all of them or none; those that are not named stay. What runs keeps what it has until it is deployed again.',
    input: {
      applicationId: t.input.id(applicationId),
      variables: t.input.field({ type: [VariableInput], description: '1 to 200 variables, each once.' }),
      expectedVersion: t.input.int(expectedVersion),
    },
    resolve: (_, { input }, { app, actor }) =>
      app.use(Environments).set(actor, { ...input, applicationId: rowId('Application', input.applicationId) }),
  }),
  unsetEnvironmentVariables: t.fieldWithInput({
    access: can.unsetEnvironmentVariables,
    type: success('UnsetEnvironmentVariablesSuccess', 'The variables are gone, for deployments from now on.'),
    errors: failing(EnvironmentConflict),
    description: 'Removes environment variables of an application; one that is not there is removed already.',
    input: {
      applicationId: t.input.id(applicationId),
      names: t.input.stringList({ description: '1 to 200 names.' }),
      expectedVersion: t.input.int(expectedVersion),
    },
    resolve: (_, { input }, { app, actor }) =>
      app.use(Environments).unset(actor, { ...input, applicationId: rowId('Application', input.applicationId) }),
  }),
}));
