import type { z } from 'zod';
import { service } from './app.ts';

/**
 * Why a model gave no answer that can be used. BUSY: it has too much to do, or had none of the time that it was given.
 * REFUSED: whoever serves it takes no such request, for instance for its key. MALFORMED: the answer is not what was asked
 * for. TOO_LARGE: the question or the answer is. UNREACHABLE: nobody answers there, or the server fails.
 */
export type LlmFailure = 'BUSY' | 'REFUSED' | 'MALFORMED' | 'TOO_LARGE' | 'UNREACHABLE';

/** A language model gave no answer. The message is for people, and has nothing of question, answer or key in it. */
export class LlmFailed extends Error {
  override readonly name = 'LlmFailed';
  readonly reason: LlmFailure;
  /** Whether the same may succeed later. */
  readonly mayPass: boolean;
  constructor(reason: LlmFailure, message: string, options?: ErrorOptions) {
    super(message, options);
    this.reason = reason;
    this.mayPass = reason === 'BUSY' || reason === 'UNREACHABLE';
  }
}

/** Characters of the data of one question. */
export const maxDataChars = 60_000;

/**
 * A language model that answers in a form that is asked for. It can do nothing: it has no tools, and what it answers is
 * text that somebody else wrote, whatever the data told it to be.
 */
export interface LanguageModel {
  /** For people: which one it is. */
  readonly name: string;
  /**
   * @param schema what the answer must be; an answer that is not is an error
   * @param instructions what to do, from us
   * @param data what to do it with, from anybody; secrets have been taken out of it, at most `maxDataChars`
   * @throws {LlmFailed} and the reason of the signal
   */
  complete<T>(schema: z.ZodType<T>, instructions: string, data: string, signal: AbortSignal): Promise<T>;
}

/** The server's language model, null: it has none; and what a workspace may ask it about within 24 hours, in all. `start` provides it. What asks it must be allowed to by its workspace. */
export const Llm = service<{ readonly model: LanguageModel | null; readonly daily: number }>('language model', () => ({
  model: null,
  daily: 0,
}));
