import { definePolicy, withParent } from '#kernel/auth/policy.ts';

/** What operators do to the server itself. They are the owners of its own workspace. */
export const can = definePolicy('instance', {
  verbs: { rotateEncryptionKeys: 'OWNER' },
  inInstance: ['rotateEncryptionKeys'],
  // A rotation is a run: the rule of Run holds for it.
  rows: { KeyRotation: withParent },
}).verbs;
