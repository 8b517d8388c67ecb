import { UserRef } from '#kernel/auth/schema.ts';
import { Conflict } from '#kernel/errors.ts';
import { builder } from '#kernel/graphql/builder.ts';
import { ErrorInterface, errorType, failing } from '#kernel/graphql/kit.ts';
import { VersionConflict } from '../errors.ts';
import { can } from '../policy.ts';
import { Profiles, UserStates } from '../service/index.ts';
import type { State } from '../service/user-state.ts';
import { isSelf } from './shared.ts';

errorType(VersionConflict, {
  name: 'VersionConflict',
  description: 'The document was written since you read it. Nothing was changed.',
  interfaces: [ErrorInterface],
  fields: (t) => ({
    currentVersion: t.exposeInt('currentVersion', { description: 'The version that it has now.' }),
  }),
});

const ProfileRef = builder
  .objectRef<{ readonly locale: string | null; readonly timeZone: string | null }>('Profile')
  .implement({
    description: 'How somebody likes to be served.',
    fields: (t) => ({
      locale: t.exposeString('locale', {
        nullable: true,
        description: 'Language and region: a BCP 47 tag in its canonical form, such as `de-AT`. Null: not said.',
      }),
      timeZone: t.exposeString('timeZone', {
        nullable: true,
        description: 'IANA time zone, such as `Europe/Vienna`. Null: not said.',
      }),
    }),
  });

const StateRef = builder.objectRef<State>('UserState').implement({
  description: 'One JSON document that programs of yours keep for you.',
  fields: (t) => ({
    version: t.exposeInt('version', {
      description: 'Raised by every write; 0 while there is none, and for one from before there were versions.',
    }),
    value: t.field({
      type: 'JSON',
      description: 'The document: an object, empty while there is none.',
      resolve: ({ value }) => value,
    }),
    updatedAt: t.field({
      type: 'DateTime',
      nullable: true,
      description: 'When it was written last; null while there is none.',
      resolve: ({ updatedAt }) => updatedAt,
    }),
  }),
});

builder.prismaObjectFields(UserRef, (t) => ({
  profile: t.field({
    type: ProfileRef,
    nullable: true,
    description: 'How you like to be served. Null for everybody but yourself.',
    resolve: async (user, _, { app, actor }) =>
      isSelf(user, actor)
        ? ((await app.db.profile.findUnique({ where: { userId: user.id } })) ?? { locale: null, timeZone: null })
        : null,
  }),
  state: t.field({
    type: StateRef,
    nullable: true,
    description: 'What programs of yours keep for you. Null for everybody but yourself.',
    resolve: (user, _, { app, actor }) => (isSelf(user, actor) ? app.use(UserStates).read(user.id) : null),
  }),
}));

const stateSuccess = (name: string) =>
  builder.objectRef<State>(name).implement({
    description: 'The document was written.',
    fields: (t) => ({
      state: t.field({ type: StateRef, description: 'As it is now.', resolve: (state) => state }),
    }),
  });

builder.mutationFields((t) => ({
  updateProfile: t.fieldWithInput({
    access: can.updateProfile,
    type: builder.objectRef<{ readonly userId: string }>('UpdateProfileSuccess').implement({
      description: 'The profile was changed.',
      fields: (f) => ({
        user: f.prismaField({
          type: UserRef,
          description: 'You.',
          resolve: (query, { userId }, __, { app }) =>
            app.db.user.findUniqueOrThrow({ ...query, where: { id: userId } }),
        }),
      }),
    }),
    errors: failing(),
    description: 'Changes what is given of your profile; what is absent stays, and null removes.',
    input: {
      name: t.input.string({ required: false, description: 'Name shown to other members, 1 to 120 characters.' }),
      locale: t.input.string({ required: false, description: 'BCP 47 language tag, such as `de-AT`.' }),
      timeZone: t.input.string({ required: false, description: 'IANA time zone, such as `Europe/Vienna`.' }),
    },
    resolve: (_, { input }, { app, actor }) => app.use(Profiles).updateProfile(actor, input),
  }),
  saveUserState: t.fieldWithInput({
    access: can.saveUserState,
    type: stateSuccess('SaveUserStateSuccess'),
    errors: failing(VersionConflict, Conflict),
    description: 'Puts a document in place of the one that you read. To change parts of it, patch it.',
    input: {
      value: t.input.field({
        type: 'JSON',
        description: 'The document: an object of at most 262,144 bytes and 32 levels.',
      }),
      expectedVersion: t.input.int({ description: 'The version that you read; 0 for the first one.' }),
    },
    resolve: (_, { input }, { app, actor }) => app.use(UserStates).saveUserState(actor, input),
  }),
  patchUserState: t.fieldWithInput({
    access: can.patchUserState,
    type: stateSuccess('PatchUserStateSuccess'),
    errors: failing(Conflict),
    description:
      'Merges a patch into the document, whatever its version: members that are null are removed, objects are merged, everything else replaces (JSON Merge Patch, RFC 7396). Patches at the same time lose nothing of each other.',
    input: { patch: t.input.field({ type: 'JSON', description: 'The patch: an object.' }) },
    resolve: (_, { input }, { app, actor }) => app.use(UserStates).patchUserState(actor, input),
  }),
}));
