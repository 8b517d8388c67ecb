import { required } from '../app.ts';
import type { Sessions } from './session.ts';

/** The session tokens of this server, with its secret. */
export const SessionTokens = required<Sessions>('session tokens');
