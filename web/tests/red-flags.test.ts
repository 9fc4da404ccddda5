import { describe, expect, it } from "vitest";

import { redFlags, whomToCall } from "../src/care/red-flags";
import data from "../src/care/red-flags.json";

const ids = (question: string): string[] => redFlags(question).map(({ id }) => id);

const RAISED: [string, string][] = [
  ["cardiac", "58-year-old man with crushing chest pain for 40 minutes and sweating"],
  ["cardiac", "My chest hurts and my left arm feels numb"],
  ["cardiac", "ECG shows ST elevation in II, III and aVF"],
  ["cardiac", "Chest pressure since this morning, pain radiating to the jaw"],
  ["cardiac", "No relief of the chest pain after nitroglycerin"],
  ["cardiac", "No fever, but chest pain on exertion"],
  ["cardiac", "I think he is having a heart attack"],
  ["cardiac", "We cannot rule out acute coronary syndrome"],
  ["cardiac", "Denies dyspnoea. Has chest tightness."],
  ["cardiac", "There is no doubt that this is chest pain of cardiac origin"],
  ["arrest", "She is not breathing, what do I do?"],
  ["arrest", "Found unresponsive at home"],
  ["arrest", "There is no pulse"],
  ["stroke", "Sudden weakness of the right arm and slurred speech"],
  ["stroke", "His face is drooping on the left"],
  ["stroke", "Worst headache of her life, thunderclap headache"],
  ["stroke", "Sudden onset right-sided weakness, glucose 6.1"],
  ["stroke", "tPA window for acute ischemic stroke at 3 hours"],
  ["sepsis", "Fever of 39.5, confused, BP 85/50"],
  ["sepsis", "Suspected sepsis in a neutropenic patient"],
  ["sepsis", "A toddler with a non-blanching rash"],
  ["sepsis", "Confusion and a fever after a urinary infection"],
  ["anaphylaxis", "After the peanut his tongue is swelling"],
  ["anaphylaxis", "Dose of adrenaline in anaphylaxis?"],
  ["anaphylaxis", "Urticaria and wheezing ten minutes after penicillin"],
  ["suicide", "I want to kill myself"],
  ["suicide", "The patient reports suicidal ideation with a plan"],
  ["suicide", "She says she’d be better off dead"],
  ["suicide", "I don't want to be alive anymore"],
  ["suicide", "A teenager who is self-harming"],
  ["breathing", "He can't breathe"],
  ["breathing", "A child with stridor and drooling"],
  ["breathing", "Severe shortness of breath after a flight"],
  ["bleeding", "Vomiting large amounts of blood, known varices"],
  ["bleeding", "Bleeding that won't stop after the tooth was pulled"],
  ["bleeding", "Tearing back pain, is it an aortic dissection?"],
  ["seizure", "Seizure lasting more than ten minutes"],
  ["seizure", "Second drug in status epilepticus"],
  ["poisoning", "A toddler swallowed a button battery"],
  ["poisoning", "Paracetamol overdose four hours ago"],
  // As people say it, and as they spell it.
  ["cardiac", "it feels like an elephant on my chest"],
  ["cardiac", "i have pressure in the middle of my chest"],
  ["cardiac", "sudden chest pian and sweating"],
  ["cardiac", "Pain behind the sternum at rest, NSTEMI?"],
  ["cardiac", "Broad complex ventricular tachycardia with a pulse"],
  ["arrest", "She collapsed and is not responding"],
  ["arrest", "He can't be woken, GCS 6"],
  ["stroke", "her speech is slurred since breakfast"],
  ["stroke", "one side of his face has dropped"],
  ["stroke", "he cannot lift his right arm"],
  ["stroke", "my arm suddenly went numb"],
  ["stroke", "Suddenly confused and cannot find words"],
  ["sepsis", "spots on the legs that don't fade under a glass"],
  ["sepsis", "Temperature 38.4 on day 9 of chemotherapy"],
  ["sepsis", "Could this be meningitis?"],
  ["anaphylaxis", "stung by a bee and her throat feels tight"],
  ["anaphylaxis", "anaphilaxis after shellfish"],
  ["suicide", "i dont want to be here anymore"],
  ["suicide", "she took all her pills"],
  ["suicide", "having sucidal thoughts"],
  ["suicide", "I might hurt my baby"],
  ["breathing", "my son has trouble breathing"],
  ["breathing", "SpO2 84% on air"],
  ["breathing", "asthma attack, cannot finish sentences"],
  ["bleeding", "black tarry stools and dizziness"],
  ["bleeding", "Head injury on warfarin, now vomiting"],
  ["seizure", "he is having a seizure"],
  ["seizure", "she has been fitting for ten minutes"],
  ["poisoning", "my child drank weedkiller"],
  ["poisoning", "carbon monoxide poisoning, three people with headache"],
  ["metabolic", "DKA with a pH of 7.0"],
  ["metabolic", "Potassium 7.1 with broad QRS"],
  ["metabolic", "glucose 1.8 and drowsy"],
  ["pregnancy", "32 weeks pregnant and bleeding"],
  ["pregnancy", "Vaginal bleeding in early pregnancy with shoulder pain"],
  ["pregnancy", "my baby has stopped moving at 36 weeks"],
  ["pregnancy", "Magnesium dose in eclampsia"],
  ["child", "3-week-old with a fever of 38.3"],
  ["child", "Fever in a 5 week old, looks well"],
  ["child", "my baby is floppy and won't feed"],
  ["child", "Green bilious vomiting in a newborn: infant with bilious vomiting"],
  ["surgical", "Sudden severe testicular pain in a 14-year-old"],
  ["surgical", "Back pain and can't pee since yesterday"],
  ["surgical", "Cold pale leg since this morning"],
  ["surgical", "Bleach splashed into both eyes: bleach in the eyes"],
  // A denial ends where something else begins.
  ["breathing", "The pain isn't getting better and he can't breathe"],
  ["cardiac", "She has no fever and her chest hurts"],
  ["cardiac", "No cough. Not sure, but maybe chest pain"],
  ["stroke", "He doesn't know where he is and his speech is slurred"],
  ["suicide", "I am not sleeping and I want to die"],
  ["sepsis", "No cough but fever and confusion"],
  ["cardiac", "chest\u00adpain? No: chest \u2010 well, chest pain"],
];

const QUIET: string[] = [
  "Denies chest pain, dyspnoea or syncope",
  "No chest pain, no shortness of breath",
  "Chest pain: none",
  "Chest pain was ruled out as cardiac in origin? No, chest pain denied.",
  "The patient does not have chest pain or suicidal thoughts",
  "Without facial droop or slurred speech",
  "Negative for sepsis, meningococcal disease excluded",
  "Never had anaphylaxis",
  "She doesn't have suicidal ideation",
  "The absence of stridor, cyanosis and drooling",
  "What a stroke of luck that the scan was early",
  "How is a swimmer's breaststroke rotator cuff injury treated?",
  "Clavulanate is a suicide inhibitor of beta-lactamase: how does that work?",
  "Apoptosis is called cell suicide",
  "Aseptic technique for central lines",
  "Who empties the septic tank?",
  "I nearly had a heart attack when I saw the bill",
  "The server is unresponsive",
  "Unconscious bias in triage",
  "He cut himself while shaving",
  "I overdosed on chocolate at Christmas",
  "Which drug reverses heparin?",
  "How do I tell iron deficiency from anaemia of chronic disease?",
  "A 45-year-old with joint pain and morning stiffness",
  "Treatment of stable hypertension in diabetes",
  "Bell's palsy: steroids or not?",
  "The company has been bleeding money",
  "Give me some room to breathe before the deadline",
  "She isn't having any chest pain",
  "He hasn't had a seizure lasting longer than a minute",
  "no chest pain or trouble breathing",
  "Not suicidal, no self-harm",
  "Pregnant, no bleeding, baby moving well",
  "Family history of stroke and family history of suicide",
  "How does aspirin work for preventing pre-eclampsia?",
  "Potassium 4.2, glucose 5.6, saturation 97 %",
  "A 3-year-old with a fever of 38.5 and a runny nose",
  "Which vaccine covers meningitis B? Meningitis vaccine schedule",
  "A sore throat and a blocked nose",
  "Iron tablets: what dose in pregnancy?",
  "This statistics exam will kill me",
  "Is the mitral valve the best fit for repair?",
  "What is stroke volume, and how is it measured?",
];

describe("red flags", () => {
  it.each(RAISED)("%s: %s", (id, question) => expect(ids(question)).toContain(id));
  it.each(QUIET)("quiet: %s", (question) => expect(ids(question)).toEqual([]));

  it("shows each emergency once, with advice and whom to call", () => {
    const flags = redFlags("Chest pain. More chest pain. He is suicidal.");
    expect(flags.map(({ id }) => id)).toEqual(["cardiac", "suicide"]);
    expect(flags[1]!.call).toContain("988");
    expect(whomToCall(flags)).toContain("988");
    expect(whomToCall(redFlags("chest pain"))).toMatch(/112, 911, 999/);
    for (const flag of flags) expect(flag.advice.length).toBeGreaterThan(20);
  });

  it("is raised by some question, and not by its denial, for every emergency", () => {
    const short: Record<string, string> = {
      cardiac: "chest pain", arrest: "cardiac arrest", stroke: "slurred speech", sepsis: "sepsis",
      anaphylaxis: "anaphylaxis", suicide: "suicidal thoughts", breathing: "stridor",
      bleeding: "haematemesis", seizure: "status epilepticus", poisoning: "an overdose",
      metabolic: "diabetic ketoacidosis", pregnancy: "an ectopic pregnancy", child: "a bulging fontanelle",
      surgical: "testicular torsion",
    };
    for (const { id } of data.flags) {
      expect(ids(`The patient has ${short[id]}`), id).toEqual([id]);
      expect(ids(`The patient denies fever, cough and ${short[id]}`), id).toEqual([]);
    }
  });

  it("stays fast on a long text", () => {
    const started = performance.now();
    redFlags("fever ".repeat(20_000));
    redFlags("no ".repeat(20_000));
    redFlags("baby pregnant bleeding chest pain in my ".repeat(2_000));
    redFlags("a ".repeat(40_000));
    expect(performance.now() - started).toBeLessThan(2_000);
  });
});
